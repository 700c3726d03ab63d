//! A real RabbitMQ: a hundred thousand triggers due at once arrive, also when the broker dies in between.

mod common;
#[path = "common/serving.rs"]
mod serving;

use std::collections::HashSet;

use batchwright_testkit::{Service, needs, restart};
use common::{Place, until};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use serving::{Serving, at_millis, history};

fn broker() -> String {
    needs(Service::RabbitMq).expect("the test asks for it first")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn channel() -> Channel {
    // Kept by the channel for as long as that lives.
    let connection = Connection::connect(&broker(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    std::mem::forget(connection);
    channel
}

/// Declares a durable exchange and a durable queue that is bound to it, both of that name and empty.
fn declare(name: &str) {
    runtime().block_on(async {
        let channel = channel().await;
        channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
        channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.unwrap();
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let none = FieldTable::default;
        channel.exchange_declare(name.into(), ExchangeKind::Fanout, options, none()).await.unwrap();
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(name.into(), options, none()).await.unwrap();
        let options = QueueBindOptions::default();
        channel.queue_bind(name.into(), name.into(), "".into(), options, none()).await.unwrap();
    });
}

fn waiting(queue: &str) -> u32 {
    runtime().block_on(async {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let none = FieldTable::default();
        channel().await.queue_declare(queue.into(), options, none).await.unwrap().message_count()
    })
}

/// Consumes until `count` different messages came; returns how many there were, those that came twice included,
/// and the ids of the first and the last.
fn consume(queue: &str, count: usize) -> (usize, HashSet<String>) {
    runtime().block_on(async {
        let channel = channel().await;
        channel.basic_qos(2_000, BasicQosOptions::default()).await.unwrap();
        let options = BasicConsumeOptions::default();
        let none = FieldTable::default();
        let mut consumer =
            channel.basic_consume(queue.into(), "test".into(), options, none).await.unwrap();
        let (mut seen, mut ids, mut all) = (HashSet::new(), HashSet::new(), 0);
        while seen.len() < count {
            let delivery = consumer.next().await.unwrap().unwrap();
            all += 1;
            assert_eq!(*delivery.properties.delivery_mode(), Some(2), "persistent");
            let headers = delivery.properties.headers().as_ref().unwrap();
            assert!(headers.inner().contains_key("traceparent"), "{headers:?}");
            ids.insert(delivery.properties.message_id().as_ref().unwrap().to_string());
            seen.insert(String::from_utf8(delivery.data.clone()).unwrap());
            if all % 500 == 0 || seen.len() == count {
                let options = BasicAckOptions { multiple: true };
                channel.basic_ack(delivery.delivery_tag, options).await.unwrap();
            }
        }
        assert_eq!(ids.len(), seen.len(), "a message that comes again has the same id");
        (all, seen)
    })
}

/// One after the other: the second restarts the broker.
#[test]
fn a_hundred_thousand_due_at_once_arrive_and_a_broker_that_dies_costs_none() {
    const COUNT: usize = 100_000;
    if needs(Service::RabbitMq).is_none() {
        return;
    }
    for dies in [false, true] {
        if dies && needs(Service::Restart).is_none() {
            return;
        }
        let name = "batchwright-test-burst";
        declare(name);
        let place = Place::new();
        let serving = Serving::start(&place);
        let mut client = serving.client();
        client.done(&format!("1 RULE SET all \"\" amqp {} {name} key", broker()));
        let due = at_millis(15_000);
        let mut writing = client.stream.try_clone().unwrap();
        let sets: String = (0..COUNT).map(|n| format!("{n} SET t{n:06} {due}\n")).collect();
        let sending = std::thread::spawn(move || {
            std::io::Write::write_all(&mut writing, sets.as_bytes()).unwrap();
        });
        (0..COUNT).for_each(|_| assert!(client.line().ends_with(" OK")));
        sending.join().unwrap();
        if dies {
            until("a part of them arrived", || waiting(name) > 5_000);
            restart("rabbitmq");
            assert!(
                serving.last_word().contains("the broker is unavailable")
                    || waiting(name) < COUNT as u32
            );
        }
        let (all, seen) = consume(name, COUNT);
        assert_eq!(seen.len(), COUNT);
        let again = all - COUNT;
        assert!(dies || again == 0, "{again} came twice");
        for number in [0, COUNT / 2, COUNT - 1] {
            serving.until_status(&format!("t{number:06}"), "executed");
        }
        assert_eq!(serving.end(), 0);
    }
}

#[test]
fn what_no_queue_takes_and_what_has_no_exchange_fails_with_the_reason() {
    if needs(Service::RabbitMq).is_none() {
        return;
    }
    let place = Place::new();
    let name = "batchwright-test-lonely";
    runtime().block_on(async {
        let channel = channel().await;
        let options = ExchangeDeclareOptions { auto_delete: false, ..Default::default() };
        let none = FieldTable::default();
        channel.exchange_declare(name.into(), ExchangeKind::Direct, options, none).await.unwrap();
    });
    let serving = Serving::start(&place);
    let mut client = serving.client();
    client.done(&format!("1 RULE SET a lonely amqp {} {name} nowhere", broker()));
    client.done(&format!(
        "2 RULE SET b missing amqp {} batchwright-test-there-is-none key",
        broker()
    ));
    for trigger in ["lonely", "missing"] {
        client.done(&format!("3 SET {trigger} \"2001-01-01 00:00:00\""));
        serving.until_status(trigger, "failed");
    }
    let reason = |trigger: &str| {
        let row = history(&place, trigger).remove(0);
        row["reason"].as_str().unwrap().to_owned()
    };
    assert!(reason("lonely").contains("unroutable"), "{}", reason("lonely"));
    assert!(reason("missing").contains("NOT_FOUND"), "{}", reason("missing"));
    assert!(!serving.last_word().contains("batchwright:batchwright"), "no secret reaches the log");
}

#[test]
fn an_address_as_kairoi_documents_it_publishes_and_permanent_faults_fail_with_the_brokers_reason() {
    if needs(Service::RabbitMq).is_none() {
        return;
    }
    let name = "batchwright-test-documented";
    declare(name);
    let place = Place::new();
    let serving = Serving::start(&place);
    let mut client = serving.client();
    // `amqp://USER:PASSWORD@HOST:PORT`, the virtual host left out.
    let server = broker().rsplit_once('/').unwrap().0.to_owned();
    let (credentials, host) = server.strip_prefix("amqp://").unwrap().split_once('@').unwrap();
    let user = credentials.split(':').next().unwrap();
    client.done(&format!("1 RULE SET a good amqp {server}/ {name} key"));
    client.done(&format!("2 RULE SET b nowhere amqp {server}/there-is-none {name} key"));
    client.done(&format!("3 RULE SET c stranger amqp amqp://{user}:wrong@{host}/ {name} key"));
    for trigger in ["good", "nowhere", "stranger"] {
        client.done(&format!("4 SET {trigger} \"2001-01-01 00:00:00\""));
    }
    serving.until_status("good", "executed");
    assert_eq!(waiting(name), 1);
    for (trigger, message) in [("nowhere", "there-is-none"), ("stranger", "ACCESS_REFUSED")] {
        serving.until_status(trigger, "failed");
        let reason = history(&place, trigger).remove(0)["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(message), "{trigger}: {reason}");
        assert!(!reason.contains("wrong@") && !reason.contains(":wrong"), "{reason}");
        client.done(&format!("5 UNSET {trigger}"));
    }
    assert_eq!(serving.end(), 0);
}

#[test]
fn a_broker_that_is_not_there_holds_up_no_other_runner() {
    let place = Place::new();
    let script =
        place.write("touch.sh", format!("echo \"$1\" >> {}\n", place.path("out").display()));
    let serving = Serving::start(&place);
    let mut client = serving.client();
    // Nothing listens at this port.
    client.done("1 RULE SET a mq amqp amqp://guest:guest@127.0.0.1:1/%2f e k");
    client.done(&format!("2 RULE SET b sh shell {}", script.display()));
    for number in 0..50 {
        client.done(&format!("3 SET mq{number} \"2001-01-01 00:00:00\""));
    }
    client.done("4 SET sh \"2001-01-01 00:00:00\"");
    serving.until_status("sh", "executed");
    // What waits says why, and can be taken back meanwhile.
    until("the reason is there", || history(&place, "mq0")[0]["reason"].is_string());
    client.done("5 UNSET mq1");
    assert_eq!(client.ask("6 GET mq1"), "6 ERROR");
    // It ends all the same; what waits fires again later.
    assert_eq!(serving.end(), 0);
    let row = history(&place, "mq0").remove(0);
    assert_eq!(row["status"], "planned");
    let reason = row["reason"].as_str().unwrap();
    assert!(
        reason.contains("the broker is unavailable") && !reason.contains("guest:guest"),
        "{reason}"
    );
}
