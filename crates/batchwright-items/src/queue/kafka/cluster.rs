//! A topic of a cluster: which broker leads which partition, and the connections to them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::{Clock as _, StopToken, SystemClock};
use batchwright::error::ErrorKind;
use kafka_protocol::error::{ParseResponseErrorCode as _, ResponseError};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition,
};
use kafka_protocol::messages::{MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::connection::{Connection, Settings, refused};

/// The version of the requests for what a cluster consists of.
const METADATA_VERSION: i16 = 4;
/// The time between two requests while a partition has no leader.
const LEADER_WAIT: Duration = Duration::from_millis(100);

/// A topic, and the cluster that has it.
pub(super) struct Cluster {
    settings: Arc<Settings>,
    /// Hosts and ports by which the cluster is found.
    servers: Vec<(String, u16)>,
    pub(super) topic: String,
    /// Hosts and ports of the brokers by their numbers.
    brokers: HashMap<i32, (String, u16)>,
    /// The brokers that lead the partitions.
    leaders: BTreeMap<i32, i32>,
    connections: HashMap<i32, Connection>,
    clock: SystemClock,
    stop: StopToken,
}

impl Cluster {
    pub(super) fn open(
        settings: Settings,
        servers: Vec<(String, u16)>,
        topic: String,
        stop: StopToken,
    ) -> Result<Self, ItemError> {
        let mut cluster = Self {
            settings: Arc::new(settings),
            servers,
            topic,
            brokers: HashMap::new(),
            leaders: BTreeMap::new(),
            connections: HashMap::new(),
            clock: SystemClock::default(),
            stop,
        };
        cluster.find_leaders()?;
        Ok(cluster)
    }

    /// Returns the numbers of the partitions.
    pub(super) fn partitions(&self) -> Vec<i32> {
        self.leaders.keys().copied().collect()
    }

    pub(super) fn name(&self) -> TopicName {
        TopicName(StrBytes::from_string(self.topic.clone()))
    }

    /// Returns an error when a stop is requested.
    pub(super) fn check_stop(&self) -> Result<(), ItemError> {
        match self.stop.is_requested() {
            false => Ok(()),
            true => Err(ItemError::stopped("a stop was requested while a topic was used")),
        }
    }

    /// Waits for `time`, or until a stop is requested.
    pub(super) fn wait(&self, time: Duration) -> Result<(), ItemError> {
        self.stop.wait(time);
        self.check_stop()
    }

    /// Asks the first server that knows the topic for its leaders: the given ones, and the brokers that were known before.
    fn find_leaders(&mut self) -> Result<(), ItemError> {
        let mut last = None;
        for (host, port) in
            self.servers.clone().into_iter().chain(self.brokers.clone().into_values())
        {
            self.check_stop()?;
            match self.find_leaders_at(&host, port) {
                // A server that has just started may not know the topic yet.
                Err(error) if !error.is_stop() => last = Some(last.unwrap_or(error)),
                found => return found,
            }
        }
        Err(last.unwrap_or_else(|| ItemError::fatal("the cluster has no server")))
    }

    fn find_leaders_at(&mut self, host: &str, port: u16) -> Result<(), ItemError> {
        let action = format!("find the topic `{}`", self.topic);
        let mut connection = Connection::open(host, port, &self.settings)?;
        let topic = MetadataRequestTopic::default().with_name(Some(self.name()));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![topic]))
            .with_allow_auto_topic_creation(false);
        let found = connection.call(&action, METADATA_VERSION, &request)?;
        let shown = format!("{host}:{port}");
        let topic =
            found.topics.into_iter().find(|topic| topic.name.as_ref() == Some(&self.name()));
        let none = || ItemError::fatal(format!("cannot {action} at {shown}: there is none"));
        let topic = topic.ok_or_else(none)?;
        match topic.error_code.err() {
            None => {}
            Some(ResponseError::UnknownTopicOrPartition) => return Err(none()),
            Some(_) => return Err(refused(&action, &shown, topic.error_code)),
        }
        let broker = |broker: MetadataResponseBroker| {
            let port = u16::try_from(broker.port).unwrap_or_default();
            (broker.node_id.0, (broker.host.to_string(), port))
        };
        self.brokers = found.brokers.into_iter().map(broker).collect();
        let leader = |partition: &MetadataResponsePartition| {
            (partition.partition_index, partition.leader_id.0)
        };
        self.leaders = topic.partitions.iter().map(leader).collect();
        Ok(())
    }

    /// Calls `call` with the connection to the leader of `partition`; again, for as long as an answer may take, when the connection
    /// breaks, or the partition has another leader or none. `call` returns the code with which the broker refuses.
    pub(super) fn at_leader<T>(
        &mut self,
        action: &str,
        partition: i32,
        mut call: impl FnMut(&mut Connection) -> Result<Result<T, i16>, ItemError>,
    ) -> Result<T, ItemError> {
        let begun = self.clock.elapsed();
        loop {
            let failure = match self.attempt(partition, &mut call) {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(code)) => {
                    let failure = refused(action, &format!("partition {partition}"), code);
                    if !is_passing(code) {
                        return Err(failure);
                    }
                    failure
                }
                Err(error) if is_io(&error) => error,
                Err(error) => return Err(error),
            };
            if self.clock.elapsed() - begun > self.settings.timeout {
                return Err(failure);
            }
            self.wait(LEADER_WAIT)?;
            match self.find_leaders() {
                Err(error) if !is_io(&error) => return Err(error),
                // Another attempt finds out.
                _ => {}
            }
        }
    }

    fn attempt<T>(
        &mut self,
        partition: i32,
        call: &mut impl FnMut(&mut Connection) -> Result<Result<T, i16>, ItemError>,
    ) -> Result<Result<T, i16>, ItemError> {
        let leader = self.leaders.get(&partition).copied().unwrap_or(-1);
        let Some(connection) = self.connection(leader)? else {
            return Ok(Err(ResponseError::LeaderNotAvailable.code()));
        };
        let answer = call(connection);
        if answer.as_ref().err().is_some_and(is_io) {
            self.connections.remove(&leader);
        }
        answer
    }

    /// Returns the connection to `broker`; `None` if it is not known.
    fn connection(&mut self, broker: i32) -> Result<Option<&mut Connection>, ItemError> {
        use std::collections::hash_map::Entry;
        let Some((host, port)) = self.brokers.get(&broker) else { return Ok(None) };
        Ok(Some(match self.connections.entry(broker) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Connection::open(host, *port, &self.settings)?),
        }))
    }
}

fn is_io(error: &ItemError) -> bool {
    error.kind().is_a(ErrorKind::IO.name())
}

/// Whether `code` is that of a partition whose leader changes, or whose copies are not there at the moment.
fn is_passing(code: i16) -> bool {
    use ResponseError::{
        FencedLeaderEpoch, KafkaStorageError, LeaderNotAvailable, NotEnoughReplicas,
        NotEnoughReplicasAfterAppend, NotLeaderOrFollower, OffsetNotAvailable, ReplicaNotAvailable,
        RequestTimedOut, UnknownLeaderEpoch, UnknownTopicOrPartition,
    };
    let passing = [
        FencedLeaderEpoch,
        KafkaStorageError,
        LeaderNotAvailable,
        NotEnoughReplicas,
        NotEnoughReplicasAfterAppend,
        NotLeaderOrFollower,
        OffsetNotAvailable,
        ReplicaNotAvailable,
        RequestTimedOut,
        UnknownLeaderEpoch,
        UnknownTopicOrPartition,
    ];
    code.err().is_some_and(|error| passing.contains(&error))
}
