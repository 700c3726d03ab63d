//! The client against a broker that answers as a test says: what the cluster of the other tests cannot do.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use batchwright::item::ListWriter;
use batchwright::testing::{CommitPoint, TestBench};
use batchwright::{BatchStatus, ChunkStepBuilder};
use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ApiKey, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest,
    MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader,
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
    TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use super::connection::{Login, Mechanism, Settings};
use super::reader::{Fields, Selection, TopicReader};
use super::records::tests::{encoded, end, record};
use super::scram::ScramHash;
use super::*;
use crate::record::Record;

/// What the broker has, and what it did.
#[derive(Default)]
struct State {
    port: u16,
    /// The batches of partition 0, the first offset that is there, and the one after the last.
    batches: Bytes,
    earliest: i64,
    latest: i64,
    /// The offset after the last message, committed or not, if it is another one.
    highest: Option<i64>,
    /// How many requests are refused because another broker leads the partition, how many connections break at their next request,
    /// and how many fetches have no answer because the client is to be slower.
    moved: usize,
    broken: usize,
    throttled: usize,
    /// How many messages the broker accepts together.
    batch_max: i32,
    /// The numbers of messages that were sent together.
    sent: Vec<i32>,
    /// What was asked for, and what was sent to log in.
    offsets_of: Vec<i64>,
    fetched: Vec<i64>,
    logins: Vec<String>,
}

type Shared = Arc<Mutex<State>>;

/// Starts a broker on a thread of its own, which ends with the process.
fn broker(state: State) -> Shared {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let state = Arc::new(Mutex::new(State { port, ..state }));
    let shared = Arc::clone(&state);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, state) = (stream.unwrap(), Arc::clone(&shared));
            thread::spawn(move || serve(stream, &state));
        }
    });
    state
}

/// Answers the requests of a connection, until it ends.
fn serve(mut stream: TcpStream, state: &Shared) -> Option<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut request = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut request).ok()?;
        let (key, version) = (i16_at(&request, 0), i16_at(&request, 2));
        let key = ApiKey::try_from(key).unwrap();
        let mut request = Bytes::from(request);
        let header =
            RequestHeader::decode(&mut request, key.request_header_version(version)).unwrap();
        let mut answer = BytesMut::new();
        answer.put_i32(0);
        ResponseHeader::default()
            .with_correlation_id(header.correlation_id)
            .encode(&mut answer, key.response_header_version(version))
            .unwrap();
        {
            let mut state = state.lock().unwrap();
            if state.broken > 0 && key != ApiKey::Metadata {
                state.broken -= 1;
                return None;
            }
            state.answer(key, version, request, &mut answer);
        }
        let length = i32::try_from(answer.len() - 4).unwrap();
        answer[..4].copy_from_slice(&length.to_be_bytes());
        stream.write_all(&answer).ok()?;
    }
}

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str("orders"))
}

impl State {
    fn answer(&mut self, key: ApiKey, version: i16, mut request: Bytes, answer: &mut BytesMut) {
        match key {
            ApiKey::Metadata => self.metadata(version, request, answer),
            ApiKey::ListOffsets => {
                let request = ListOffsetsRequest::decode(&mut request, version).unwrap();
                let is_all = request.isolation_level == 0;
                let latest = if is_all { self.highest.unwrap_or(self.latest) } else { self.latest };
                let time = request.topics[0].partitions[0].timestamp;
                self.offsets_of.push(time);
                // A message each second, the first one at 0.
                let of_time = (time + 999) / 1_000;
                let offset = match time {
                    -2 => self.earliest,
                    -1 => latest,
                    _ if of_time >= latest => -1,
                    _ => of_time.max(self.earliest),
                };
                let partition = ListOffsetsPartitionResponse::default().with_offset(offset);
                let topic = ListOffsetsTopicResponse::default()
                    .with_name(name())
                    .with_partitions(vec![partition.with_error_code(self.refusal())]);
                ListOffsetsResponse::default()
                    .with_topics(vec![topic])
                    .encode(answer, version)
                    .unwrap();
            }
            ApiKey::Fetch => {
                let request = FetchRequest::decode(&mut request, version).unwrap();
                let offset = request.topics[0].partitions[0].fetch_offset;
                self.fetched.push(offset);
                let is_there = (self.earliest..=self.latest).contains(&offset);
                let code = match is_there {
                    true => self.refusal(),
                    false => ResponseError::OffsetOutOfRange.code(),
                };
                let partition = PartitionData::default()
                    .with_error_code(code)
                    .with_records((code == 0).then(|| self.batches.clone()));
                let topic = FetchableTopicResponse::default()
                    .with_topic(name())
                    .with_partitions(vec![partition]);
                let mut answered = vec![topic];
                let mut wait = 0;
                if self.throttled > 0 {
                    self.throttled -= 1;
                    (answered, wait) = (Vec::new(), 10);
                }
                FetchResponse::default()
                    .with_responses(answered)
                    .with_throttle_time_ms(wait)
                    .encode(answer, version)
                    .unwrap();
            }
            ApiKey::Produce => self.produce(version, request, answer),
            ApiKey::SaslHandshake | ApiKey::SaslAuthenticate => {
                self.log_in(key, version, request, answer);
            }
            other => panic!("{other:?} is not asked for"),
        }
    }

    fn log_in(&mut self, key: ApiKey, version: i16, mut request: Bytes, answer: &mut BytesMut) {
        match key {
            ApiKey::SaslHandshake => {
                let request = SaslHandshakeRequest::decode(&mut request, version).unwrap();
                self.logins.push(request.mechanism.to_string());
                SaslHandshakeResponse::default().encode(answer, version).unwrap();
            }
            _ => {
                let request = SaslAuthenticateRequest::decode(&mut request, version).unwrap();
                let text = String::from_utf8(request.auth_bytes.to_vec()).unwrap();
                let nonce = text.split_once("r=").map_or("", |(_, nonce)| nonce).to_owned();
                self.logins.push(text);
                // Not the proof that the broker knows the password.
                let bytes = format!("r={nonce}server,s=c2FsdA==,i=4096,v=AAAA");
                SaslAuthenticateResponse::default()
                    .with_auth_bytes(bytes.into())
                    .encode(answer, version)
                    .unwrap();
            }
        }
    }

    fn metadata(&self, version: i16, mut request: Bytes, answer: &mut BytesMut) {
        MetadataRequest::decode(&mut request, version).unwrap();
        let broker = MetadataResponseBroker::default()
            .with_node_id(1.into())
            .with_host(StrBytes::from_static_str("127.0.0.1"))
            .with_port(self.port.into());
        let partition = MetadataResponsePartition::default().with_leader_id(1.into());
        let topic = MetadataResponseTopic::default()
            .with_name(Some(name()))
            .with_partitions(vec![partition]);
        let found = MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic]);
        found.encode(answer, version).unwrap();
    }

    fn produce(&mut self, version: i16, mut request: Bytes, answer: &mut BytesMut) {
        let request = ProduceRequest::decode(&mut request, version).unwrap();
        assert_eq!(request.acks, -1);
        let batch = request.topic_data[0].partition_data[0].records.clone().unwrap();
        let count = i32::from_be_bytes(batch[57..61].try_into().unwrap());
        self.sent.push(count);
        let code = match count <= self.batch_max {
            true => self.refusal(),
            false => ResponseError::MessageTooLarge.code(),
        };
        let partition = PartitionProduceResponse::default().with_error_code(code);
        let topic = TopicProduceResponse::default()
            .with_name(name())
            .with_partition_responses(vec![partition]);
        ProduceResponse::default().with_responses(vec![topic]).encode(answer, version).unwrap();
    }

    fn refusal(&mut self) -> i16 {
        if self.moved == 0 {
            return 0;
        }
        self.moved -= 1;
        ResponseError::NotLeaderOrFollower.code()
    }
}

/// Ten messages, two to a batch, and the mark of a transaction after them.
fn ten() -> State {
    let mut batches: Vec<_> =
        (0..5).map(|number| vec![record(number * 2, -1), record(number * 2 + 1, -1)]).collect();
    batches.push(vec![end(10, 7, true)]);
    State { batches: encoded(&batches), latest: 11, ..State::default() }
}

fn reader(state: &Shared, selection: Selection, login: Option<Mechanism>) -> TopicReader {
    reader_within(state, selection, login, Duration::from_secs(10))
}

fn reader_within(
    state: &Shared,
    selection: Selection,
    login: Option<Mechanism>,
    timeout: Duration,
) -> TopicReader {
    let port = state.lock().unwrap().port;
    let connect: ConnectTopic = Arc::new(move |scope| {
        let login = login.map(|mechanism| Login {
            mechanism,
            user: "ada".to_owned(),
            password: "secret".to_owned(),
        });
        let settings = Settings { tls: None, login, timeout };
        let servers = vec![("127.0.0.1".to_owned(), port)];
        let cluster = Cluster::open(settings, servers, "orders".to_owned(), scope.stop().clone())?;
        Ok((cluster, selection.clone()))
    });
    let decode = Decode::new(BodyFormat::Text, None);
    TopicReader::new(connect, decode, Fields { key: None, time: None }, timeout)
}

fn all() -> Selection {
    Selection { partitions: None, from: None, until: None }
}

/// Reads with `make`, and a crash after commit `crash` unless it is 0; `meanwhile` happens before the restart.
fn read(
    make: impl Fn() -> TopicReader + Send + Sync + 'static,
    crash: u64,
    meanwhile: impl FnOnce(),
) -> Result<Vec<String>, String> {
    let items: Arc<Mutex<Vec<Record>>> = Arc::default();
    let step = ChunkStepBuilder::new("read")
        .reader_with(move |_| Ok(make()))
        .writer(ListWriter::new(Arc::clone(&items)))
        .chunk_size(3)
        .build();
    let mut bench = TestBench::of_step(step);
    if crash > 0 {
        bench.crash_at(CommitPoint::After, crash);
    }
    let mut ended = bench.run();
    if crash > 0 {
        meanwhile();
        ended = bench.restart();
    }
    if ended.status != BatchStatus::Completed {
        let failure = ended.failure.unwrap();
        return Err(format!("{}: {}", failure.code, failure.message));
    }
    let items = items.lock().unwrap();
    Ok(items.iter().map(|item| item.get("body").unwrap().to_string()).collect())
}

fn numbers(range: std::ops::Range<i64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn a_time_selects_the_messages_of_a_day() {
    let at = |seconds: f64| Some(Timestamp::from_millisecond((seconds * 1_000.0) as i64).unwrap());
    for (from, until, expected) in [
        (None, None, 0..10),
        (at(3.0), at(7.0), 3..7),
        (at(2.5), at(6.5), 3..7),
        (at(8.0), at(99.0), 8..10),
        (at(99.0), None, 0..0),
        (None, at(0.0), 0..0),
        (at(7.0), at(3.0), 0..0),
    ] {
        let state = broker(ten());
        let selection = Selection { from, until, ..all() };
        let found = read(move || reader(&state, selection.clone(), None), 0, || ());
        assert_eq!(found.unwrap(), numbers(expected), "{from:?} {until:?}");
    }
}

#[test]
fn a_restart_goes_on_to_the_end_that_was_determined() {
    for crash in 1..=4 {
        let state = broker(ten());
        let of_step = Arc::clone(&state);
        let found = read(
            move || reader(&of_step, all(), None),
            crash,
            || {
                let mut state = state.lock().unwrap();
                let more = encoded(&[vec![record(11, -1)]]);
                state.batches = [&state.batches[..], &more].concat().into();
                state.latest = 12;
            },
        );
        assert_eq!(found.unwrap(), numbers(0..10), "{crash}");
    }
}

#[test]
fn messages_that_were_deleted_before_they_were_read_fail_the_step() {
    let state = broker(ten());
    let of_step = Arc::clone(&state);
    let make = move || reader(&of_step, all(), None);
    let found = read(make, 1, || state.lock().unwrap().earliest = 5);
    let failed = found.unwrap_err();
    assert!(failed.contains("input_changed") && failed.contains("there are 5 to 10"), "{failed}");
    // The topic was created anew, with fewer messages.
    let state = broker(ten());
    let of_step = Arc::clone(&state);
    let make = move || reader(&of_step, all(), None);
    let found = read(make, 1, || state.lock().unwrap().latest = 2);
    let failed = found.unwrap_err();
    assert!(failed.contains("input_changed"), "{failed}");
}

#[test]
fn a_topic_that_was_created_anew_with_as_many_messages_is_noticed() {
    let state = broker(ten());
    let of_step = Arc::clone(&state);
    let found = read(
        move || reader(&of_step, all(), None),
        2,
        || {
            let other =
                |offset| kafka_protocol::records::Record { timestamp: 5, ..record(offset, -1) };
            let batches: Vec<_> = (0..20).map(|offset| vec![other(offset)]).collect();
            let mut state = state.lock().unwrap();
            (state.batches, state.latest) = (encoded(&batches), 20);
        },
    );
    let failed = found.unwrap_err();
    assert!(failed.contains("input_changed") && failed.contains("another one"), "{failed}");
}

/// Messages before `until` that are not committed belong to the instance.
#[test]
fn a_transaction_that_is_open_is_waited_for_when_it_began_before_the_end() {
    let until = Some(Timestamp::from_second(7).unwrap());
    let selection = Selection { until, ..all() };
    let state = broker(State { latest: 4, highest: Some(11), ..ten() });
    let of_step = Arc::clone(&state);
    let (later, of_reader) = (Arc::clone(&state), selection.clone());
    let committing = thread::spawn(move || {
        // The offsets of the time and of the end were asked for.
        while later.lock().unwrap().offsets_of.len() < 3 {
            thread::yield_now();
        }
        later.lock().unwrap().latest = 11;
    });
    let found = read(move || reader(&of_step, of_reader.clone(), None), 0, || ());
    assert_eq!(found.unwrap(), numbers(0..7));
    committing.join().unwrap();
    // It stays open.
    let state = broker(State { latest: 4, highest: Some(11), ..ten() });
    let of_step = Arc::clone(&state);
    let make = move || reader_within(&of_step, selection.clone(), None, Duration::from_millis(300));
    let failed = read(make, 0, || ()).unwrap_err();
    assert!(failed.contains("still open"), "{failed}");
    // Without `until`, they belong to a later one.
    let state = broker(State { latest: 4, highest: Some(11), ..ten() });
    let found = read(move || reader(&state, all(), None), 0, || ());
    assert_eq!(found.unwrap(), numbers(0..4));
}

#[test]
fn a_broker_that_limits_its_clients_is_waited_for() {
    let state = broker(State { throttled: 3, ..ten() });
    let found = read(move || reader(&state, all(), None), 0, || ());
    assert_eq!(found.unwrap(), numbers(0..10));
}

#[test]
fn a_connection_that_breaks_is_made_anew() {
    for broken in 1..=3 {
        let state = broker(State { broken, ..ten() });
        let of_step = Arc::clone(&state);
        let found = read(move || reader(&of_step, all(), None), 0, || ());
        assert_eq!(found.unwrap(), numbers(0..10), "{broken}");
        assert_eq!(state.lock().unwrap().broken, 0);
    }
}

#[test]
fn messages_that_are_too_large_together_are_sent_in_parts() {
    let state = broker(State { batch_max: 3, moved: 1, ..State::default() });
    let port = state.lock().unwrap().port;
    let timeout = Duration::from_secs(10);
    let connect: sent::Connect<TopicSender> = Arc::new(move |scope| {
        let settings = Settings { tls: None, login: None, timeout };
        let servers = vec![("127.0.0.1".to_owned(), port)];
        let cluster = Cluster::open(settings, servers, "orders".to_owned(), scope.stop().clone())?;
        Ok(TopicSender { cluster, key_field: None, store_wait_ms: 5_000, batches: 0 })
    });
    let names: crate::record::Names = Arc::new([Arc::from("n")]);
    let items: Vec<Record> =
        (0..10).map(|n| Record::single(&names, crate::value::Value::Integer(n))).collect();
    let step = ChunkStepBuilder::new("send")
        .reader(batchwright::item::ListReader::new(items))
        .writer_with(move |_| Ok(SendingWriter::new(Arc::clone(&connect))))
        .build();
    let ended = TestBench::of_step(step).run();
    assert_eq!(ended.status, BatchStatus::Completed, "{:?}", ended.failure);
    // 10, 5 and 2 of it, which are refused once, then all.
    assert_eq!(state.lock().unwrap().sent, [10, 5, 2, 2, 3, 5, 2, 3]);
}

#[test]
fn a_partition_whose_leader_changes_is_read_further() {
    let state = broker(State { moved: 3, ..ten() });
    let of_step = Arc::clone(&state);
    let found = read(move || reader(&of_step, all(), None), 0, || ());
    assert_eq!(found.unwrap(), numbers(0..10));
    assert_eq!(state.lock().unwrap().moved, 0);
}

#[test]
fn a_user_logs_in_and_a_broker_that_does_not_know_the_password_is_refused() {
    // Both connections log in: that which finds the leaders, and that to the leader.
    let state = broker(ten());
    let of_step = Arc::clone(&state);
    let found = read(move || reader(&of_step, all(), Some(Mechanism::Plain)), 0, || ());
    assert_eq!(found.unwrap(), numbers(0..10));
    let logins = state.lock().unwrap().logins.clone();
    assert_eq!(logins, ["PLAIN", "\0ada\0secret", "PLAIN", "\0ada\0secret"]);
    let state = broker(ten());
    let of_step = Arc::clone(&state);
    let scram = Some(Mechanism::Scram(ScramHash::Sha512));
    let refused = read(move || reader(&of_step, all(), scram), 0, || ()).unwrap_err();
    assert!(refused.contains("does not know the password"), "{refused}");
    let logins = state.lock().unwrap().logins.clone();
    assert_eq!((logins.len(), &*logins[0]), (3, "SCRAM-SHA-512"));
    assert!(logins.iter().all(|text| !text.contains("secret")), "{logins:?}");
}
