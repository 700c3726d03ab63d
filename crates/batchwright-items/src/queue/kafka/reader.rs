//! The reader of a topic: from an offset of each partition to another, which the first execution of the instance determines.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, SystemClock};
use batchwright::error::ErrorKind;
use batchwright::item::{ItemReader, Total};
use batchwright::scope::StepScope;
use jiff::Timestamp;
use kafka_protocol::error::{ParseResponseErrorCode as _, ResponseError};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, ListOffsetsRequest};
use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::records::{Decoded, Message, decode};
use crate::queue::Content;
use crate::queue::body::Decode;
use crate::record::{Names, Record, first_duplicate};
use crate::value::Value;

const FETCH_VERSION: i16 = 11;
const LIST_OFFSETS_VERSION: i16 = 2;
/// Only what is committed is read.
const COMMITTED: i8 = 1;
/// What is there, committed or not.
const ALL: i8 = 0;
/// The broker that a client says it is.
const CLIENT: BrokerId = BrokerId(-1);
/// The times that stand for the first offset, and for the one after the last.
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
/// Maximum size of an answer with messages, in bytes.
const FETCH_BYTES: i32 = 8 * 1024 * 1024;
/// How long the broker waits for messages that are there, in milliseconds.
const FETCH_WAIT_MS: i32 = 500;
/// The time between two looks at a transaction that is open.
const TRANSACTION_WAIT: Duration = Duration::from_millis(100);

/// Which messages are read.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    /// The partitions; `None` for all.
    pub(super) partitions: Option<Vec<i32>>,
    /// The first instant, and the one after the last.
    pub(super) from: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
}

/// What a record has beside the body of its message.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    pub(super) key: Option<Arc<str>>,
    pub(super) time: Option<Arc<str>>,
}

/// Makes a connection, and says what is read.
pub(super) type ConnectTopic =
    Arc<dyn Fn(&StepScope) -> Result<(Cluster, Selection), ItemError> + Send + Sync>;

pub(super) struct TopicReader {
    connect: ConnectTopic,
    decode: Decode,
    fields: Fields,
    timeout: Duration,
    open: Option<Open>,
    /// Whether the last read failed at the broker, so that its message was not read.
    is_broken: bool,
    clock: SystemClock,
}

struct Open {
    cluster: Cluster,
    parts: Vec<Part>,
    /// Which part is read.
    at: usize,
    fetched: VecDeque<Message>,
    /// The offset after what was fetched.
    fetched_to: i64,
}

/// The position in a topic.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct TopicPosition {
    partitions: Vec<Part>,
}

/// What is read of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    partition: i32,
    /// The first offset, the next one, and the one after the last.
    first: i64,
    next: i64,
    end: i64,
    /// The offset and the time of the last message that was read, by which its topic is recognized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<(i64, i64)>,
}

impl Part {
    fn is_done(&self) -> bool {
        self.next >= self.end
    }
}

/// Returns the first millisecond since 1970 that is not before `time`: others mean something else to brokers.
fn millis(time: Timestamp) -> i64 {
    let millis = time.as_millisecond();
    let is_after = time.as_nanosecond() > i128::from(millis) * 1_000_000;
    (millis + i64::from(is_after)).max(0)
}

impl TopicReader {
    pub(super) fn new(
        connect: ConnectTopic,
        decode: Decode,
        fields: Fields,
        timeout: Duration,
    ) -> Self {
        let clock = SystemClock::default();
        Self { connect, decode, fields, timeout, open: None, is_broken: false, clock }
    }

    fn record(&self, message: Message, partition: i32) -> Result<Record, ItemError> {
        let id = format!("{partition}/{}", message.offset);
        let at = |error: ItemError| error.at(format!("message {id}"));
        let Some(body) = message.value else {
            let what = "the message has no body: it deletes its key in a compacted topic";
            let key = message.key.map(|key| key.to_vec()).unwrap_or_default();
            return Err(at(ItemError::data(what).with_raw(key)));
        };
        let record = self.decode.record(Content::Body(body.to_vec()), Some(&id)).map_err(at)?;
        let Fields { key, time } = &self.fields;
        if key.is_none() && time.is_none() {
            return Ok(record);
        }
        let mut added = Vec::new();
        if let Some(name) = key {
            let text = message.key.map(|key| String::from_utf8(key.to_vec())).transpose();
            let text = text.map_err(|_| at(ItemError::data("its key is no text in UTF-8")))?;
            added.push((name, text.map_or(Value::Null, |text| Value::text(&text))));
        }
        if let Some(name) = time {
            // A message without a time has -1.
            let there = (message.time >= 0).then_some(message.time);
            let there = there.and_then(|millis| Timestamp::from_millisecond(millis).ok());
            added.push((name, there.map_or(Value::Null, Value::Timestamp)));
        }
        let names = record.names().iter().chain(added.iter().map(|(name, _)| *name));
        let names: Names = names.cloned().collect();
        if let Some(name) = first_duplicate(&names) {
            let what = format!("the message has a field `{name}` already");
            return Err(at(ItemError::data(what).with_raw(body.to_vec())));
        }
        let values = added.into_iter().map(|(_, value)| value);
        let values = record.values().iter().cloned().chain(values).collect();
        Ok(record.with(names, values))
    }
}

impl Open {
    /// Returns the offset of the first message of `partition` at `time`, or that of another meaning; `None` if there is none.
    fn offset_at(
        &mut self,
        partition: i32,
        time: i64,
        isolation: i8,
    ) -> Result<Option<i64>, ItemError> {
        self.cluster.check_stop()?;
        let action = format!("find messages of `{}`", self.cluster.topic);
        let wanted =
            ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(time);
        let topic = ListOffsetsTopic::default()
            .with_name(self.cluster.name())
            .with_partitions(vec![wanted]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(CLIENT)
            .with_isolation_level(isolation)
            .with_topics(vec![topic]);
        let offset = self.cluster.at_leader(&action, partition, |connection| {
            let answer = connection.call(&action, LIST_OFFSETS_VERSION, &request)?;
            let found = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
            let found = found.ok_or_else(|| ItemError::fatal(format!("cannot {action}: none")))?;
            Ok(match found.error_code {
                0 => Ok(found.offset),
                code => Err(code),
            })
        })?;
        Ok(u64::try_from(offset).is_ok().then_some(offset))
    }

    /// Returns the offset after the last committed message of `partition`.
    fn end_of(&mut self, partition: i32) -> Result<i64, ItemError> {
        Ok(self.offset_at(partition, LATEST, COMMITTED)?.unwrap_or(0))
    }

    /// Determines what is read of `partition`.
    fn part(
        &mut self,
        partition: i32,
        selection: &Selection,
        timeout: Duration,
    ) -> Result<Part, ItemError> {
        let end = match selection.until {
            Some(until) => self.end_at(partition, millis(until), timeout)?,
            None => self.end_of(partition)?,
        };
        let first = match selection.from {
            Some(from) => self.offset_at(partition, millis(from), ALL)?.unwrap_or(end).min(end),
            None => self.offset_at(partition, EARLIEST, ALL)?.unwrap_or(0),
        };
        Ok(Part { partition, first, next: first, end: end.max(first), last: None })
    }

    /// Returns the offset of the first message at `time`, once all messages before it are committed or aborted: otherwise an
    /// instance would leave some out that belong to it.
    fn end_at(&mut self, partition: i32, time: i64, timeout: Duration) -> Result<i64, ItemError> {
        let clock = SystemClock::default();
        let begun = clock.elapsed();
        loop {
            let end = match self.offset_at(partition, time, ALL)? {
                Some(offset) => offset,
                None => self.offset_at(partition, LATEST, ALL)?.unwrap_or(0),
            };
            if self.end_of(partition)? >= end {
                return Ok(end);
            }
            if clock.elapsed() - begun > timeout {
                let what = format!(
                    "cannot read the topic `{}`: a transaction of partition {partition} that began before `until` is still open",
                    self.cluster.topic
                );
                return Err(ItemError::new(ErrorKind::new("io.timeout"), what));
            }
            self.cluster.wait(TRANSACTION_WAIT)?;
        }
    }

    /// Checks that what is left of `part` is still there, in the same topic.
    fn check(&mut self, part: &Part) -> Result<(), ItemError> {
        if part.is_done() {
            return Ok(());
        }
        let Part { partition, next, end, last, .. } = part;
        let changed = |topic: &str, what: String| {
            let what = format!("cannot continue the topic `{topic}`: {what}");
            ItemError::new(ErrorKind::INPUT_CHANGED, what)
        };
        let earliest = self.offset_at(*partition, EARLIEST, ALL)?.unwrap_or(0);
        let latest = self.end_of(*partition)?;
        if earliest > *next || *end > latest {
            return Err(changed(
                &self.cluster.topic,
                format!(
                    "of partition {partition} the messages {next} to {} are to be read, and there are {earliest} to {}",
                    end - 1,
                    latest - 1
                ),
            ));
        }
        // One that was deleted says nothing.
        let Some((offset, time)) = last.filter(|(offset, _)| *offset >= earliest) else {
            return Ok(());
        };
        let (found, _) = self.fetch(&Part { next: offset, ..part.clone() })?;
        match found.messages.iter().find(|message| message.offset == offset) {
            Some(message) if message.time != time => Err(changed(
                &self.cluster.topic,
                format!("message {offset} of partition {partition} is another one than was read"),
            )),
            _ => Ok(()),
        }
    }

    /// Fetches messages of `part`, none when the broker has none within its time; and returns how long it wants no other request.
    fn fetch(&mut self, part: &Part) -> Result<(Decoded, Duration), ItemError> {
        let action = format!("read the topic `{}`", self.cluster.topic);
        let partition = FetchPartition::default()
            .with_partition(part.partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(part.next)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(FETCH_BYTES);
        let topic =
            FetchTopic::default().with_topic(self.cluster.name()).with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_replica_id(CLIENT)
            .with_max_wait_ms(FETCH_WAIT_MS)
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES)
            .with_isolation_level(COMMITTED)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let number = part.partition;
        let (fetched, throttled) = self.cluster.at_leader(&action, number, |connection| {
            let answer = connection.call(&action, FETCH_VERSION, &request)?;
            if answer.error_code.is_err() {
                return Ok(Err(answer.error_code));
            }
            let throttled = u64::try_from(answer.throttle_time_ms).unwrap_or(0);
            let throttled = Duration::from_millis(throttled);
            let found = answer.responses.into_iter().flat_map(|topic| topic.partitions).next();
            // A broker that limits its clients answers without messages.
            let Some(found) = found else { return Ok(Ok((None, throttled))) };
            match found.error_code.err() {
                None => Ok(Ok((Some(found), throttled))),
                Some(ResponseError::OffsetOutOfRange) => Err(ItemError::new(
                    ErrorKind::INPUT_CHANGED,
                    format!(
                        "cannot {action}: the message {} of partition {number} was deleted before it was read",
                        part.next
                    ),
                )),
                Some(_) => Ok(Err(found.error_code)),
            }
        })?;
        let fetched = fetched.unwrap_or_default();
        let aborted = fetched.aborted_transactions.unwrap_or_default();
        let decoded = decode(fetched.records.unwrap_or_default(), part.next, &aborted);
        let decoded = decoded.map_err(|what| {
            ItemError::fatal(format!("cannot {action}: partition {number}, {what}"))
        })?;
        Ok((decoded, throttled))
    }

    /// Returns the next message and its partition; `None` at the end.
    fn next(
        &mut self,
        clock: &SystemClock,
        timeout: Duration,
    ) -> Result<Option<(Message, i32)>, ItemError> {
        let mut waiting_since = None;
        while let Some(part) = self.parts.get(self.at).cloned() {
            if let Some(message) = self.fetched.pop_front() {
                if message.offset < part.end {
                    self.parts[self.at].next = message.offset + 1;
                    self.parts[self.at].last = Some((message.offset, message.time));
                    return Ok(Some((message, part.partition)));
                }
                self.fetched.clear();
            }
            // What follows the last message of a fetch, and is none, is passed.
            let passed = part.next.max(self.fetched_to.min(part.end));
            self.parts[self.at].next = passed;
            if passed >= part.end {
                (self.at, self.fetched_to) = (self.at + 1, 0);
                continue;
            }
            self.cluster.check_stop()?;
            let (Decoded { messages, next }, throttled) =
                self.fetch(&Part { next: passed, ..part })?;
            (self.fetched, self.fetched_to) = (messages.into(), next);
            if next > passed {
                waiting_since = None;
                continue;
            }
            if !throttled.is_zero() {
                waiting_since = None;
                self.cluster.wait(throttled)?;
                continue;
            }
            let since = *waiting_since.get_or_insert_with(|| clock.elapsed());
            if clock.elapsed() - since > timeout {
                let what = format!(
                    "cannot read the topic `{}`: the broker has message {passed} of partition {} and does not deliver it",
                    self.cluster.topic, part.partition
                );
                return Err(ItemError::new(ErrorKind::new("io.timeout"), what));
            }
        }
        Ok(None)
    }
}

impl ItemReader for TopicReader {
    type Item = Record;
    type Position = TopicPosition;

    fn open(
        &mut self,
        position: Option<TopicPosition>,
        scope: &StepScope,
    ) -> Result<(), ItemError> {
        let (cluster, selection) = (self.connect)(scope)?;
        let (parts, at, fetched, fetched_to) = (Vec::new(), 0, VecDeque::new(), 0);
        let mut open = Open { cluster, parts, at, fetched, fetched_to };
        match position.filter(|position| !position.partitions.is_empty()) {
            Some(position) => {
                position.partitions.iter().try_for_each(|part| open.check(part))?;
                open.parts = position.partitions;
            }
            None => {
                let all = open.cluster.partitions();
                let wanted = selection.partitions.clone().unwrap_or_else(|| all.clone());
                if let Some(missing) = wanted.iter().find(|number| !all.contains(number)) {
                    return Err(ItemError::fatal(format!(
                        "cannot read the topic `{}`: it has no partition {missing}",
                        open.cluster.topic
                    )));
                }
                let parts =
                    wanted.into_iter().map(|number| open.part(number, &selection, self.timeout));
                open.parts = parts.collect::<Result<_, _>>()?;
            }
        }
        self.is_broken = false;
        self.open = Some(open);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Record>, ItemError> {
        let Self { open, clock, timeout, .. } = self;
        let open = open.as_mut().ok_or_else(|| ItemError::fatal("cannot read a closed topic"))?;
        let next = open.next(clock, *timeout);
        self.is_broken = next.is_err();
        let Some((message, partition)) = next? else { return Ok(None) };
        self.record(message, partition).map(Some)
    }

    fn position(&self) -> TopicPosition {
        let parts = self.open.as_ref().map_or(&[][..], |open| &open.parts);
        TopicPosition { partitions: parts.to_vec() }
    }

    fn rereads(&self) -> bool {
        self.is_broken
    }

    fn pass_over(&mut self) -> Result<(), ItemError> {
        match self.is_broken {
            false => Ok(()),
            true => Err(ItemError::new(ErrorKind::IO, "the broker failed, and not a message")),
        }
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn total(&self) -> Option<Total> {
        let parts = &self.open.as_ref()?.parts;
        let all: i64 = parts.iter().map(|part| part.end - part.first).sum();
        u64::try_from(all).ok().map(Total::Items)
    }

    fn done(&self) -> u64 {
        let parts = self.open.iter().flat_map(|open| &open.parts);
        u64::try_from(parts.map(|part| part.next - part.first).sum::<i64>()).unwrap_or(0)
    }

    fn close(&mut self) -> Result<(), ItemError> {
        self.open = None;
        Ok(())
    }
}
