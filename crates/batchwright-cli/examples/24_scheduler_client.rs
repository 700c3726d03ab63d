//! A rule and a trigger for a running server: `cargo run -p batchwright-cli --example 24_scheduler_client`

use batchwright::clock::{Clock, SystemClock};
use batchwright_server::RuleSettings;
use batchwright_server::kcp::client::BlockingClient;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "tcp://localhost:5678".to_owned());
    let client = BlockingClient::connect(&address)?;

    // Triggers whose names begin with `app.` publish a message to the exchange `app`.
    let runner = ["amqp", "amqp://guest:guest@localhost:5672/", "app", "app_batchwright"];
    client.set_rule("app.default.rule", "app.", &RuleSettings::parse(&runner)?)?;

    // Fires as soon as possible.
    client.set("app.domain.job.0", SystemClock::default().now())?;
    Ok(())
}
