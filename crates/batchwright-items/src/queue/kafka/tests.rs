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
use kafka_protocol::messages::{
    ApiKey, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest,
    MetadataResponse, RequestHeader, ResponseHeader, SaslAuthenticateRequest,
    SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse, TopicName,
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
    /// How many requests are refused because another broker leads the partition.
    moved: usize,
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
        state.lock().unwrap().answer(key, version, request, &mut answer);
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
            ApiKey::Metadata => {
                MetadataRequest::decode(&mut request, version).unwrap();
                let broker = MetadataResponseBroker::default()
                    .with_node_id(1.into())
                    .with_host(StrBytes::from_static_str("127.0.0.1"))
                    .with_port(self.port.into());
                let partition = MetadataResponsePartition::default().with_leader_id(1.into());
                let topic = MetadataResponseTopic::default()
                    .with_name(Some(name()))
                    .with_partitions(vec![partition]);
                let found =
                    MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic]);
                found.encode(answer, version).unwrap();
            }
            ApiKey::ListOffsets => {
                let request = ListOffsetsRequest::decode(&mut request, version).unwrap();
                assert_eq!(request.isolation_level, 1, "what is not committed is not there");
                let time = request.topics[0].partitions[0].timestamp;
                self.offsets_of.push(time);
                // A message each second, the first one at 0.
                let of_time = (time + 999) / 1_000;
                let offset = match time {
                    -2 => self.earliest,
                    -1 => self.latest,
                    _ if of_time >= self.latest => -1,
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
                FetchResponse::default()
                    .with_responses(vec![topic])
                    .encode(answer, version)
                    .unwrap();
            }
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
    let port = state.lock().unwrap().port;
    let timeout = Duration::from_secs(10);
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
