//! Queues on the brokers of the tests, filled and looked at by their own clients.

use std::cell::RefCell;
use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull, stream};
use batchwright_testkit::{Service, needs};
use futures_util::StreamExt;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, PublisherConfirm};
use redis::{Commands, Value};
use tokio::runtime::Runtime;

/// The kinds of queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Amqp,
    RedisList,
    RedisStream,
    Nats,
}

impl Kind {
    /// The kinds whose broker is there.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        [Self::Amqp, Self::RedisList, Self::RedisStream, Self::Nats]
            .into_iter()
            .filter(|kind| needs(kind.service()).is_some())
    }

    fn service(self) -> Service {
        match self {
            Self::Amqp => Service::RabbitMq,
            Self::RedisList | Self::RedisStream => Service::Redis,
            Self::Nats => Service::Nats,
        }
    }

    /// Whether what is sent to it has no key.
    pub(crate) fn has_no_keys(self) -> bool {
        matches!(self, Self::RedisList | Self::RedisStream)
    }
}

enum Client {
    Amqp(Channel, #[expect(dead_code, reason = "the channel ends with it")] Connection),
    Redis(RefCell<redis::Connection>),
    Nats(jetstream::Context),
}

/// A queue of its own.
pub(crate) struct Queue {
    kind: Kind,
    name: String,
    client: Client,
    runtime: Runtime,
}

impl Queue {
    /// Creates an empty queue.
    pub(crate) fn new(kind: Kind, test: &str) -> Self {
        let name = format!("bw-{test}-{}", std::process::id());
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let url = needs(kind.service()).unwrap();
        let client = runtime.block_on(connect(kind, &url));
        let queue = Self { kind, name, client, runtime };
        queue.runtime.block_on(queue.create());
        queue
    }

    pub(crate) fn url(&self) -> String {
        needs(self.kind.service()).unwrap()
    }

    async fn create(&self) {
        let name = self.name.as_str();
        match &self.client {
            Client::Amqp(channel, _) => {
                channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
                let options = QueueDeclareOptions { durable: true, ..Default::default() };
                channel.queue_declare(name.into(), options, FieldTable::default()).await.unwrap();
            }
            Client::Redis(redis) => {
                let mut redis = redis.borrow_mut();
                let _: () = redis.del(name).unwrap();
                if self.kind == Kind::RedisStream {
                    let mut create = redis::cmd("XGROUP");
                    create.arg("CREATE").arg(name).arg("other").arg(0).arg("MKSTREAM");
                    let _: () = create.query(&mut redis).unwrap();
                }
            }
            Client::Nats(context) => {
                let _ = context.delete_stream(name).await;
                let config = stream::Config {
                    name: name.to_owned(),
                    subjects: vec![name.to_owned()],
                    ..Default::default()
                };
                let stream = context.create_stream(config).await.unwrap();
                // Messages of a process that died are delivered again after a second instead of thirty.
                let consumer = pull::Config {
                    durable_name: Some("batch".to_owned()),
                    ack_wait: Duration::from_secs(1),
                    max_ack_pending: -1,
                    ..Default::default()
                };
                stream.create_consumer(consumer).await.unwrap();
            }
        }
    }

    /// The keys of a reader.
    pub(crate) fn reader(&self) -> String {
        let (url, name) = (self.url(), &self.name);
        match self.kind {
            Kind::Amqp => format!("type = \"amqp\"\nserver = \"{url}\"\nqueue = \"{name}\""),
            Kind::RedisList => format!("type = \"redis\"\nserver = \"{url}\"\nlist = \"{name}\""),
            Kind::RedisStream => {
                format!("type = \"redis\"\nserver = \"{url}\"\nstream = \"{name}\"")
            }
            Kind::Nats => format!(
                "type = \"nats\"\nserver = \"{url}\"\nstream = \"{name}\"\nconsumer = \"batch\""
            ),
        }
    }

    /// The keys of a writer.
    pub(crate) fn writer(&self) -> String {
        let name = &self.name;
        match self.kind {
            Kind::Amqp => {
                format!("type = \"amqp\"\nserver = \"{}\"\nrouting_key = \"{name}\"", self.url())
            }
            Kind::Nats => {
                format!("type = \"nats\"\nserver = \"{}\"\nsubject = \"{name}\"", self.url())
            }
            Kind::RedisList | Kind::RedisStream => self.reader(),
        }
    }

    /// Sends the messages 1 to `last`, with an id each where the kind has them.
    pub(crate) fn fill(&self, last: u64) {
        let messages = (1..=last).map(|n| (format!("{{\"n\":{n}}}"), format!("id-{n}")));
        let Client::Amqp(channel, _) = &self.client else {
            return messages.for_each(|(body, id)| self.send(body.as_bytes(), Some(&id)));
        };
        self.runtime.block_on(async {
            let mut confirms = Vec::new();
            for (body, id) in messages {
                confirms.push(self.publish(channel, body.as_bytes(), Some(&id)).await);
            }
            for confirm in confirms {
                confirm.await.unwrap();
            }
        });
    }

    /// Publishes a message, which is stored, and survives a crash of the broker, once it is confirmed.
    async fn publish(&self, channel: &Channel, body: &[u8], id: Option<&str>) -> PublisherConfirm {
        let mut properties = BasicProperties::default().with_delivery_mode(2);
        if let Some(id) = id {
            properties = properties.with_message_id(id.into());
        }
        let (exchange, key) = ("".into(), self.name.as_str().into());
        let options = BasicPublishOptions::default();
        channel.basic_publish(exchange, key, options, body, properties).await.unwrap()
    }

    /// Sends a message; to a stream of Redis, which has fields, its number.
    pub(crate) fn send(&self, body: &[u8], id: Option<&str>) {
        match &self.client {
            Client::Amqp(channel, _) => self.runtime.block_on(async {
                self.publish(channel, body, id).await.await.unwrap();
            }),
            Client::Redis(redis) if self.kind == Kind::RedisList => {
                redis.borrow_mut().rpush(&self.name, body).unwrap()
            }
            Client::Redis(redis) => {
                let number: String =
                    String::from_utf8_lossy(body).matches(char::is_numeric).collect();
                redis.borrow_mut().xadd(&self.name, "*", &[("n", number)]).unwrap()
            }
            Client::Nats(context) => self.runtime.block_on(async {
                let sent = context.publish(self.name.clone(), body.to_vec().into()).await.unwrap();
                sent.await.unwrap();
            }),
        }
    }

    /// Lets the consumer of JetStream deliver no more than `max` messages before the first is acknowledged.
    pub(crate) fn limit_unacknowledged(&self, max: i64) {
        let Client::Nats(context) = &self.client else { panic!("no NATS") };
        self.runtime.block_on(async {
            let stream = context.get_stream(&self.name).await.unwrap();
            stream.delete_consumer("batch").await.unwrap();
            let consumer = pull::Config {
                durable_name: Some("batch".to_owned()),
                ack_wait: Duration::from_secs(1),
                max_ack_pending: max,
                ..Default::default()
            };
            stream.create_consumer(consumer).await.unwrap();
        });
    }

    /// Deletes the entries with these numbers of a stream of Redis.
    pub(crate) fn delete_entries(&self, numbers: &[usize]) {
        let Client::Redis(redis) = &self.client else { panic!("no Redis") };
        let mut redis = redis.borrow_mut();
        let entries: Vec<(String, Value)> = redis.xrange_all(&self.name).unwrap();
        let ids: Vec<&str> = numbers.iter().map(|number| &*entries[number - 1].0).collect();
        let _: usize = redis.xdel(&self.name, &ids).unwrap();
    }

    /// Returns how many elements a list of Redis has.
    pub(crate) fn waiting(&self) -> usize {
        let Client::Redis(redis) = &self.client else { panic!("no Redis") };
        redis.borrow_mut().llen(&self.name).unwrap()
    }

    /// Returns how many elements of a list of Redis an instance holds.
    pub(crate) fn held(&self) -> usize {
        let Client::Redis(redis) = &self.client else { panic!("no Redis") };
        let mut redis = redis.borrow_mut();
        let lists: Vec<String> = redis.keys(format!("{}:batchwright:*", self.name)).unwrap();
        let list = lists.iter().find(|name| name.matches(':').count() == 2);
        list.map_or(0, |list| redis.llen(list).unwrap())
    }

    /// Returns how many messages are not acknowledged.
    pub(crate) fn left(&self) -> usize {
        match &self.client {
            Client::Amqp(channel, _) => self.runtime.block_on(async {
                let options = QueueDeclareOptions { passive: true, ..Default::default() };
                let name = self.name.as_str().into();
                let found = channel.queue_declare(name, options, FieldTable::default()).await;
                found.unwrap().message_count() as usize
            }),
            Client::Redis(redis) if self.kind == Kind::RedisList => {
                let mut redis = redis.borrow_mut();
                let held: Vec<String> = redis.keys(format!("{}:batchwright:*", self.name)).unwrap();
                assert!(held.is_empty(), "nothing is left beside the list: {held:?}");
                redis.llen(&self.name).unwrap()
            }
            Client::Redis(redis) => {
                let mut redis = redis.borrow_mut();
                let groups: Vec<std::collections::HashMap<String, Value>> =
                    redis::cmd("XINFO").arg("GROUPS").arg(&self.name).query(&mut redis).unwrap();
                let number =
                    |value: &Value| -> usize { redis::from_redis_value(value.clone()).unwrap() };
                let ours = |group: &&std::collections::HashMap<String, Value>| {
                    redis::from_redis_value::<String>(group["name"].clone()).unwrap()
                        == "batchwright"
                };
                let group = groups.iter().find(ours).expect("the reader made its group");
                number(&group["pending"]) + number(&group["lag"])
            }
            Client::Nats(context) => self.runtime.block_on(async {
                let stream = context.get_stream(&self.name).await.unwrap();
                let mut consumer = stream.get_consumer::<pull::Config>("batch").await.unwrap();
                let info = consumer.info().await.unwrap();
                info.num_ack_pending + info.num_pending as usize
            }),
        }
    }

    /// Returns all messages: their ids, empty where the kind has none, and their numbers.
    pub(crate) fn take(&self) -> Vec<(String, u64)> {
        let number = |body: &[u8]| -> u64 {
            let body: serde_json::Value = serde_json::from_slice(body).unwrap();
            body["n"].as_u64().unwrap()
        };
        match &self.client {
            Client::Amqp(channel, _) => self.runtime.block_on(async {
                let mut taken = Vec::new();
                let options = BasicGetOptions { no_ack: true };
                while let Some(got) =
                    channel.basic_get(self.name.as_str().into(), options).await.unwrap()
                {
                    let properties = &got.delivery.properties;
                    let id = properties.message_id().as_ref().unwrap().to_string();
                    assert_eq!(*properties.delivery_mode(), Some(2), "it is persistent");
                    taken.push((id, number(&got.delivery.data)));
                }
                taken
            }),
            Client::Redis(redis) if self.kind == Kind::RedisList => {
                let bodies: Vec<Vec<u8>> = redis.borrow_mut().lrange(&self.name, 0, -1).unwrap();
                bodies.iter().map(|body| (String::new(), number(body))).collect()
            }
            Client::Redis(redis) => {
                let entries: Vec<(String, Vec<(String, u64)>)> =
                    redis.borrow_mut().xrange_all(&self.name).unwrap();
                entries.into_iter().map(|(_, fields)| (String::new(), fields[0].1)).collect()
            }
            Client::Nats(context) => self.runtime.block_on(async {
                let stream = context.get_stream(&self.name).await.unwrap();
                let consumer = stream.get_consumer::<pull::Config>("batch").await.unwrap();
                let mut messages = consumer.fetch().max_messages(100).messages().await.unwrap();
                let mut taken = Vec::new();
                while let Some(message) = messages.next().await {
                    let message = message.unwrap();
                    let id = message.headers.as_ref().unwrap().get("Nats-Msg-Id").unwrap();
                    taken.push((id.to_string(), number(&message.payload)));
                }
                taken
            }),
        }
    }
}

async fn connect(kind: Kind, url: &str) -> Client {
    match kind {
        Kind::Amqp => {
            let connection =
                Connection::connect(url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            Client::Amqp(channel, connection)
        }
        Kind::RedisList | Kind::RedisStream => {
            let redis = redis::Client::open(url).unwrap().get_connection().unwrap();
            Client::Redis(RefCell::new(redis))
        }
        Kind::Nats => {
            let (user, address) = url.strip_prefix("nats://").unwrap().split_once('@').unwrap();
            let (user, password) = user.split_once(':').unwrap();
            let options = async_nats::ConnectOptions::with_user_and_password(
                user.to_owned(),
                password.to_owned(),
            );
            Client::Nats(jetstream::new(options.connect(address).await.unwrap()))
        }
    }
}
