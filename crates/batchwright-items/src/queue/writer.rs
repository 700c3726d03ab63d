//! The writer of messages.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright::item::{ChunkTransaction, Ending, ItemWriter, PreparedCommit};
use batchwright::scope::StepScope;

use crate::record::Record;
use crate::sent::{self, Numbers, Sent};

/// A message that is sent. It has the same key when it is sent again.
pub(super) struct Outgoing<'a> {
    pub(super) key: String,
    pub(super) body: Vec<u8>,
    pub(super) record: &'a Record,
}

/// A connection that sends messages.
pub(super) trait Sender: Send {
    /// Sends `messages`, and waits until the broker has all of them.
    ///
    /// # Errors
    ///
    /// When the broker cannot be reached, or refuses a message. It may have any of the messages.
    fn send(&mut self, messages: Vec<Outgoing<'_>>) -> Result<(), ItemError>;

    /// Ends the connection.
    fn close(&mut self);
}

/// Makes a connection for a step.
pub(super) type Connect<S> = Arc<dyn Fn(&StepScope) -> Result<S, ItemError> + Send + Sync>;

/// A writer that sends each record as a message of JSON.
pub(super) struct QueueWriter<S> {
    connect: Connect<S>,
    sender: Option<S>,
    scope: Option<StepScope>,
    identity: String,
    numbers: Numbers,
}

impl<S: Sender> QueueWriter<S> {
    pub(super) fn new(connect: Connect<S>) -> Self {
        Self {
            connect,
            sender: None,
            scope: None,
            identity: String::new(),
            numbers: Numbers::default(),
        }
    }
}

impl<S: Sender> QueueWriter<S> {
    /// Sends `messages`, over a new connection if the last one failed: an answer to what was sent before could be taken for
    /// another.
    fn send(&mut self, messages: Vec<Outgoing<'_>>) -> Result<(), ItemError> {
        let Some(scope) = &self.scope else {
            return Err(ItemError::fatal("cannot send before the writer is opened"));
        };
        let mut sender = match self.sender.take() {
            Some(sender) => sender,
            None => (self.connect)(scope)?,
        };
        let sent = sender.send(messages);
        if sent.as_ref().err().is_none_or(|error| error.kind().is_a(ErrorKind::DATA.name())) {
            self.sender = Some(sender);
        }
        sent
    }
}

impl<S: Sender> ItemWriter<Record> for QueueWriter<S> {
    type Position = Sent;

    fn open(
        &mut self,
        position: Option<Sent>,
        scope: &StepScope,
    ) -> Result<Option<PreparedCommit>, ItemError> {
        self.sender = Some((self.connect)(scope)?);
        self.scope = Some(scope.clone());
        self.identity = sent::identity(scope);
        self.numbers = Numbers::after(position);
        Ok(None)
    }

    fn write(&mut self, items: &[Record], _: &mut ChunkTransaction<'_>) -> Result<(), ItemError> {
        if items.is_empty() {
            return Ok(());
        }
        let messages = items.iter().zip(self.numbers.next()..).map(|(record, number)| {
            let body = serde_json::to_vec(record)
                .map_err(|error| ItemError::wrap(ErrorKind::DATA, "cannot write as JSON", error))?;
            let key = sent::numbered_key(&self.identity, number, &body);
            Ok(Outgoing { key, body, record })
        });
        let messages = messages.collect::<Result<_, ItemError>>()?;
        self.send(messages)?;
        self.numbers.add(items.len());
        Ok(())
    }

    fn position(&mut self) -> Result<Sent, ItemError> {
        Ok(self.numbers.position())
    }

    fn committed(&mut self) -> Result<(), ItemError> {
        self.numbers.commit();
        Ok(())
    }

    fn rolled_back(&mut self) -> Result<(), ItemError> {
        self.numbers.roll_back();
        Ok(())
    }

    fn close(&mut self, _: Ending) -> Result<(), ItemError> {
        if let Some(mut sender) = self.sender.take() {
            sender.close();
        }
        Ok(())
    }
}
