//! Jobs that messages of a queue start: signed, verified, each once. A real RabbitMQ.

use std::sync::Arc;
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::parameters::{ParameterDeclaration, ParameterType};
use batchwright::query::ExecutionFilter;
use batchwright::{Job, JobOperator, MemoryRepository, TaskletStep};
use batchwright_server::{JobStarter, LaunchMessage, LaunchQueue, LaunchQueueError, Worker};
use batchwright_testkit::{Service, needs};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

const QUEUE: &str = "batchwright.launches";
const DEAD: &str = "batchwright.launches.dead";

/// Declares the queue, empty, with a queue for rejected messages.
async fn declare(channel: &Channel) {
    for queue in [QUEUE, DEAD] {
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(DEAD.into(), durable, FieldTable::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    for (name, value) in [("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", DEAD)] {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    channel.queue_declare(QUEUE.into(), durable, arguments).await.unwrap();
}

/// Returns the next rejected message; waits for it.
async fn rejected(channel: &Channel) -> Vec<u8> {
    loop {
        let options = BasicGetOptions { no_ack: true };
        if let Some(message) = channel.basic_get(DEAD.into(), options).await.unwrap() {
            return message.delivery.data;
        }
        tokio::task::yield_now().await;
    }
}

fn jobs() -> JobStarter {
    let job = Job::builder("import")
        .parameter(ParameterDeclaration::new("day", ParameterType::Date).required())
        .step(TaskletStep::call("step", || ()))
        .build()
        .unwrap();
    let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
    operator.registry().register(job).unwrap();
    JobStarter::new(operator)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_message_starts_its_job_once_and_every_other_message_is_rejected() {
    let Some(broker) = needs(Service::RabbitMq) else { return };
    let connection = Connection::connect(&broker, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    declare(&channel).await;
    let queue = LaunchQueue::new(broker.clone(), QUEUE, "the secret").unwrap();
    let sender = queue.sender().await.unwrap();
    let import = |day: &str| LaunchMessage::new("import").with("day", day);
    sender.send("first", &import("2026-11-27")).await.unwrap();
    sender.send("first", &import("2026-11-27")).await.unwrap();
    sender.send("second", &import("2026-11-28")).await.unwrap();

    let (jobs, stop) = (jobs(), StopToken::default());
    let operator = jobs.operator().clone();
    let worker = Worker::new(jobs.clone(), Duration::from_secs(30)).spawn(stop.clone()).unwrap();
    let serving = {
        let (queue, jobs, stop) = (queue.clone(), jobs.clone(), stop.clone());
        tokio::spawn(async move { queue.serve(&jobs, &stop).await })
    };

    // Not one of these can start a job, and each comes out of the other queue.
    let forged = LaunchQueue::new(broker, QUEUE, "another secret").unwrap().sender().await.unwrap();
    forged.send("forged", &import("2026-11-29")).await.unwrap();
    assert!(rejected(&channel).await.starts_with(br#"{"job":"import""#));
    sender.send("reused", &LaunchMessage::new("export")).await.unwrap();
    assert!(rejected(&channel).await.starts_with(br#"{"job":"export""#));
    sender.send("typed", &import("yesterday")).await.unwrap();
    assert!(rejected(&channel).await.ends_with(br#""yesterday"}}"#));
    sender.send("first", &import("2026-11-30")).await.unwrap();
    assert!(rejected(&channel).await.ends_with(br#""2026-11-30"}}"#), "its id is used");
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let unsigned = channel.basic_publish("".into(), QUEUE.into(), options, b"{}", properties);
    unsigned.await.unwrap();
    assert_eq!(rejected(&channel).await, b"{}");

    let completed = || {
        let all = operator.queries().executions(&ExecutionFilter::of_job("import")).unwrap();
        all.iter().filter(|one| one.status == batchwright::BatchStatus::Completed).count()
    };
    while completed() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(operator.queries().executions(&ExecutionFilter::default()).unwrap().len(), 2);
    let no_token = sender.send("with a space", &import("2026-11-30")).await;
    assert!(matches!(no_token, Err(LaunchQueueError::Id)));
    stop.request();
    serving.await.unwrap();
    worker.join().unwrap();
    for queue in [QUEUE, DEAD] {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let state = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        assert_eq!(state.unwrap().message_count(), 0, "{queue}");
    }
}

#[test]
fn the_password_of_a_broker_is_in_no_error() {
    let refused = LaunchQueue::new("amqp//guest:hidden@host", "q", "s").unwrap_err().to_string();
    assert!(refused.contains("the DSN cannot be used") && !refused.contains("hidden"), "{refused}");
    let queue = LaunchQueue::new("amqp://guest:hidden@127.0.0.1:1/", "q", "whispered").unwrap();
    for empty in ["", "whsec_"] {
        let refused = LaunchQueue::new("amqp://guest:guest@127.0.0.1:1/", "q", empty).unwrap_err();
        assert!(matches!(refused, LaunchQueueError::Secret));
    }
    let shown = format!("{queue:?}");
    assert!(!shown.contains("hidden") && !shown.contains("whispered"), "{shown}");
}
