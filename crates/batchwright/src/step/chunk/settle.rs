//! Settling a chunk: accounts for every record, writes the outputs, commits them with the checkpoint, and
//! scans a chunk that cannot be written as a whole.
//!
//! Only this module counts, in the order of the input, so that the skip limit has the same effect with
//! read-ahead and parallel processing.

use std::time::Duration;

use super::acknowledge::Acknowledging;
use super::checkpoint::{Checkpoint, to_json};
use super::fill::End;
use super::prepared::prepared_of;
use super::process::{Fault, Hole, Processed, Skipped};
use super::retries::{CONTENTION_ATTEMPTS_MAX, Retries, contention_wait};
use super::skips::{PendingSkip, SkipSource, Skips, SpentLimit};
use super::{Hooks, Settings};
use crate::error::{ErrorKind, ItemError, ItemErrorText, RepositoryError, StepError};
use crate::event::{ChunkTimes, Progress};
use crate::execution::{Counters, Phase, SkipRecord};
use crate::item::{
    ChunkTransaction, DeadLetterFile, Encoder, Ending, ItemWriter, PreparedCommit, guarded,
};
use crate::retry::FailedAttempts;
use crate::step::{Commit, StepRun, split_lease_lost};
use crate::store::Durability;

/// The end of settling a chunk that did not fail.
pub(super) enum Settled {
    Committed,
    /// A stop request cut a wait short; the chunk is rolled back.
    Interrupted,
}

/// The position of the checkpoint of one commit.
#[derive(Clone, Copy)]
enum Mark {
    /// After the whole chunk.
    After,
    /// At the chunk's start, with this number of its records resolved.
    Within(u64),
}

pub(super) struct Settler<'r, 'a, I, O, W: ItemWriter<O>> {
    run: &'r mut StepRun<'a>,
    writer: &'r mut W,
    checkpoint: &'r mut Checkpoint,
    dead_letters: Option<DeadLetterFile>,
    settings: &'r Settings,
    hooks: &'r Hooks<I, O>,
    retries: Retries<'r>,
    acknowledging: Option<Acknowledging>,
    /// Buffer for the JSON of the checkpoints.
    json: String,
    /// Counters including rolled-back attempts; the row has the committed ones.
    counters: Counters,
    skips: Skips<'r>,
    write_errors: Vec<ItemError>,
    /// How long the chunk took before it was written; nothing once a commit has had these times.
    times: ChunkTimes,
    /// When writing the chunk, or what is left of it, began.
    begun: Duration,
    /// Whether the last attempt failed for a reason that is no item's fault.
    blameless: bool,
    /// Whether the last attempt failed because of a conflict with another transaction.
    contended: bool,
}

impl<'r, 'a, I, O, W: ItemWriter<O>> Settler<'r, 'a, I, O, W> {
    pub(super) fn new(
        run: &'r mut StepRun<'a>,
        writer: &'r mut W,
        checkpoint: &'r mut Checkpoint,
        dead_letters: Option<DeadLetterFile>,
        settings: &'r Settings,
        hooks: &'r Hooks<I, O>,
        retries: Retries<'r>,
    ) -> Self {
        let counters = run.step.counters;
        let skips = Skips::of(&settings.skip, std::mem::take(&mut run.prepared_skips));
        Self {
            run,
            writer,
            checkpoint,
            dead_letters,
            settings,
            hooks,
            retries,
            acknowledging: None,
            json: String::new(),
            counters,
            skips,
            write_errors: Vec::new(),
            times: ChunkTimes::default(),
            begun: Duration::ZERO,
            blameless: false,
            contended: false,
        }
    }

    /// Acknowledges each commit to the input.
    pub(super) fn acknowledging(self, acknowledging: Option<Acknowledging>) -> Self {
        Self { acknowledging, ..self }
    }

    /// Whether the step is to end before the next chunk.
    pub(super) fn stop_requested(&self) -> Result<bool, StepError> {
        if self.run.stop_requested() {
            return Ok(true);
        }
        let Some(stop) = &self.settings.stop_when else { return Ok(false) };
        guarded(|| Ok(stop(&self.run.scope)))
            .map_err(|error| self.component("condition to stop", "evaluate", error))
    }

    /// Whether chunks that are ready are committed together, because each commit has to wait for the disk. A crash, or a failure
    /// to write, then repeats more of them, and nothing else differs.
    pub(super) fn may_join(&self) -> bool {
        // Outputs that are bytes already can be refused only by the system. If that is skipped, each output of a chunk has a
        // commit of its own, and the number of commits would depend on the chunks that are joined.
        let refused = ItemError::new(ErrorKind::IO, "");
        self.run.store().durability() == Durability::Power
            && !self.settings.skip.tolerates(Phase::Write, &refused)
            // Rehearsals count the commits, and end the process at each of them.
            && self.run.host.commit_hook.is_none()
            && self.settings.stop_when.is_none()
            && self.hooks.chunk.is_empty()
            && self.hooks.item.is_empty()
    }

    /// Returns a function that encodes outputs apart from writing them, if the writer has one by now.
    pub(super) fn encoder(&self) -> Option<Encoder<O>> {
        guarded(|| Ok(self.writer.encoder())).ok().flatten()
    }

    /// Gives the dead letters their final name, after the last chunk is settled.
    pub(super) fn finish(&mut self, complete: bool) -> Result<(), StepError> {
        let ending = if complete { Ending::Complete } else { Ending::Incomplete };
        match self.dead_letters.take() {
            Some(file) => {
                file.close(ending).map_err(|error| self.dead_letter_error("close", error))
            }
            None => Ok(()),
        }
    }

    /// Fails a step that skipped all its records. A partition does not decide this; the partitioned step
    /// does, for all partitions.
    pub(super) fn fail_if_all_skipped(&self) -> Result<(), StepError> {
        if !self.checkpoint.skipped_all() || self.run.scope.partition().is_some() {
            return Ok(());
        }
        let (step, records) = (self.run.scope.step().to_owned(), self.checkpoint.records);
        Err(StepError::AllSkipped { step, records })
    }

    /// Accounts for `chunk`, writes its outputs and commits.
    pub(super) fn settle(&mut self, chunk: &mut Processed<I, O>) -> Result<Settled, StepError> {
        let mut pending = Vec::new();
        let (read, process) = (chunk.filled.took, chunk.took);
        self.times = ChunkTimes { read, process, ..ChunkTimes::default() };
        self.begun = self.retries.clock.elapsed();
        let result =
            self.account(chunk, &mut pending).and_then(|()| match chunk.filled.records() {
                // The input ended where the last chunk ended: there is nothing to commit.
                0 => Ok(()),
                _ => self.write_and_commit(chunk, pending),
            });
        self.run.step.counters = self.counters;
        match result {
            Ok(()) => Ok(Settled::Committed),
            Err(Aborted::Interrupted) => Ok(Settled::Interrupted),
            Err(Aborted::Step(error)) => Err(error),
        }
    }

    /// Counts what was read, filtered and skipped, within the skip limit.
    fn account(
        &mut self,
        chunk: &mut Processed<I, O>,
        pending: &mut Vec<PendingSkip>,
    ) -> Result<(), Aborted> {
        let read_before = self.counters.read;
        for (index, failure) in chunk.filled.failures.iter().enumerate() {
            self.counters.read = read_before + failure.before as u64;
            let offset = failure.record;
            self.admit(Phase::Read, offset, &failure.error)?;
            let record = self.record(Phase::Read, offset, &failure.error, None);
            pending.push(PendingSkip { offset, record, source: SkipSource::Read(index) });
        }
        self.counters.read = read_before + chunk.filled.count as u64;
        match std::mem::replace(&mut chunk.filled.end, End::Full) {
            End::Failed(error) => {
                let item = self.checkpoint.records + chunk.filled.records() + 1;
                return Err(self.fail(Phase::Read, item, error));
            }
            End::Listener(call, error) => return Err(self.listener_failed(call, error)),
            end => chunk.filled.end = end,
        }
        for (index, hole) in chunk.holes.iter().enumerate() {
            let Some(Skipped { record: offset, error }) = &hole.skipped else {
                self.counters.filter += 1;
                continue;
            };
            let offset = *offset;
            self.admit(Phase::Process, offset, error)?;
            let content = self.hooks.render_input.as_ref();
            let content = content.map(|render| render(&chunk.filled.items[hole.index]));
            let record = self.record(Phase::Process, offset, error, content);
            pending.push(PendingSkip { offset, record, source: SkipSource::Process(index) });
        }
        match chunk.failure.take() {
            Some((_, Fault::Listener(call, error))) => Err(self.listener_failed(call, error)),
            Some((record, Fault::Item(error))) => {
                let item = self.checkpoint.records + record;
                Err(self.fail(Phase::Process, item, error))
            }
            None => {
                pending.sort_by_key(|skip| skip.offset);
                Ok(())
            }
        }
    }

    /// Writes the chunk as a whole, as often as the retry policy allows; then item by item, if the error may
    /// be skipped.
    fn write_and_commit(
        &mut self,
        chunk: &Processed<I, O>,
        mut pending: Vec<PendingSkip>,
    ) -> Result<(), Aborted> {
        let mut failed = FailedAttempts::default();
        loop {
            let error = match self.attempt(chunk, 0..chunk.outputs.len(), Mark::After, &pending)? {
                Ok(()) => return self.notify(chunk, 0..chunk.outputs.len(), &pending),
                Err(error) => error,
            };
            self.rolled_back(&chunk.outputs, &error)?;
            if error.is_stop() {
                return Err(Aborted::Interrupted);
            }
            match self.retries.wait_for_next(Phase::Write, &mut failed, &error) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(Fault::Listener(call, error)) => {
                    return Err(self.located_listener(call, error));
                }
                Err(Fault::Item(_)) => return Err(Aborted::Interrupted),
            }
            if !self.may_skip(&error) {
                let first = match chunk.outputs.is_empty() {
                    true => chunk.filled.records(),
                    false => chunk.record_of_output(0),
                };
                let records = self.checkpoint.records;
                let last = records + chunk.filled.records();
                return Err(self.located(Phase::Write, records + first, last, error));
            }
            if chunk.outputs.len() > 1 {
                return self.scan(chunk, pending);
            }
            // A chunk of one output needs no scan to find the failing output.
            self.skip_output(chunk, 0, error, &mut pending)?;
            return self.commit_skips(chunk, &pending);
        }
    }

    /// Writes each output in a transaction of its own, in order, and skips those that fail. The last output's
    /// transaction also commits the end of the chunk; if that output was skipped, one more commit does.
    fn scan(
        &mut self,
        chunk: &Processed<I, O>,
        mut later: Vec<PendingSkip>,
    ) -> Result<(), Aborted> {
        let mut now: Vec<PendingSkip> = Vec::new();
        let last = chunk.outputs.len() - 1;
        for index in 0..=last {
            let offset = chunk.record_of_output(index);
            let due = match index == last {
                true => later.len(),
                false => later.partition_point(|skip| skip.offset < offset),
            };
            now.extend(later.drain(..due));
            let mark = if index == last { Mark::After } else { Mark::Within(offset) };
            let one = index..index + 1;
            match self.attempt(chunk, one.clone(), mark, &now)? {
                Ok(()) => {
                    self.notify(chunk, one, &now)?;
                    now.clear();
                }
                Err(error) => {
                    self.rolled_back(&chunk.outputs[one], &error)?;
                    if error.is_stop() {
                        return Err(Aborted::Interrupted);
                    }
                    if !self.may_skip(&error) {
                        let item = self.checkpoint.records + offset;
                        return Err(self.located(Phase::Write, item, item, error));
                    }
                    self.skip_output(chunk, index, error, &mut now)?;
                    if index == last {
                        return self.commit_skips(chunk, &now);
                    }
                }
            }
        }
        Ok(())
    }

    /// Commits the end of the chunk with skips only.
    fn commit_skips(
        &mut self,
        chunk: &Processed<I, O>,
        skips: &[PendingSkip],
    ) -> Result<(), Aborted> {
        match self.attempt(chunk, 0..0, Mark::After, skips)? {
            Ok(()) => self.notify(chunk, 0..0, skips),
            Err(error) => {
                let item = self.checkpoint.records + chunk.filled.records();
                Err(self.fail(Phase::Write, item, error))
            }
        }
    }

    /// Whether skipping an output may help: failures of positions and checkpoints are no output's fault.
    fn may_skip(&self, error: &ItemError) -> bool {
        !self.blameless && self.settings.skip.tolerates(Phase::Write, error)
    }

    fn skip_output(
        &mut self,
        chunk: &Processed<I, O>,
        index: usize,
        error: ItemError,
        skips: &mut Vec<PendingSkip>,
    ) -> Result<(), Aborted> {
        let offset = chunk.record_of_output(index);
        if let Some(spent) = self.spent_limit(&error) {
            let item = self.checkpoint.records + offset;
            return Err(Aborted::Step(self.limit_error(Phase::Write, item, error, spent)));
        }
        self.count_skip(Phase::Write, &error);
        let content = self.hooks.render_output.as_ref().map(|render| render(&chunk.outputs[index]));
        let record = self.record(Phase::Write, offset, &error, content);
        self.write_errors.push(error);
        skips.push(PendingSkip { offset, record, source: SkipSource::Write(index) });
        Ok(())
    }

    /// Repeats [`attempt_once`](Self::attempt_once) while the commit conflicts with another transaction. A
    /// conflict is no item's fault, so the user's policies do not apply to it.
    fn attempt(
        &mut self,
        chunk: &Processed<I, O>,
        range: std::ops::Range<usize>,
        mark: Mark,
        skips: &[PendingSkip],
    ) -> Result<Result<(), ItemError>, Aborted> {
        for attempts in 1.. {
            match self.attempt_once(chunk, range.clone(), mark, skips)? {
                Err(error) if self.contended && attempts < CONTENTION_ATTEMPTS_MAX => {
                    self.rolled_back(&chunk.outputs[range.clone()], &error)?;
                    self.run.scope.stop().wait(contention_wait(attempts));
                }
                result => return Ok(result),
            }
        }
        unreachable!("attempts are counted without end")
    }

    /// Writes the outputs in `range` in one transaction and commits them with the checkpoint at `mark`.
    ///
    /// The outer error ends the step; the inner one is the writer's, and [`rolled_back`](Self::rolled_back)
    /// must then undo the attempt.
    fn attempt_once(
        &mut self,
        chunk: &Processed<I, O>,
        range: std::ops::Range<usize>,
        mark: Mark,
        skips: &[PendingSkip],
    ) -> Result<Result<(), ItemError>, Aborted> {
        self.contended = false;
        self.blameless = false;
        let is_whole = range.len() == chunk.outputs.len();
        let encoded = chunk.encoded.as_deref().filter(|_| is_whole);
        let outputs = &chunk.outputs[range];
        let scope = self.run.scope.clone();
        let next = self.checkpoint.sequence + 1;
        let mut transaction = ChunkTransaction::new(self.run.store(), &scope, next);
        if let Err(error) = self.write(outputs, encoded, &mut transaction)? {
            drop(transaction);
            return Ok(Err(error));
        }
        let mut counters = self.counters;
        counters.commit += if is_whole { chunk.chunks } else { 1 };
        counters.write += outputs.len() as u64;
        let records: Vec<SkipRecord> = skips.iter().map(|skip| skip.record.clone()).collect();
        let mut checkpoint = std::mem::take(&mut self.json);
        let reached = match self.reach(chunk, mark, skips, &mut checkpoint) {
            Ok(reached) => reached,
            Err(error) => {
                self.blameless = true;
                return Ok(Err(error));
            }
        };
        if self.writer.prepares() {
            self.refuse_used(&transaction)?;
            let change = counters - self.run.step.counters;
            let prepared = prepared_of(&scope, next, &checkpoint, change, &records);
            if let Err(error) = self.prepare(&prepared, outputs.is_empty())? {
                drop(transaction);
                return Ok(Err(error));
            }
        }
        let progress: Option<Progress> = chunk.filled.progress;
        let write = self.retries.clock.elapsed().saturating_sub(self.begun);
        let times = Some(ChunkTimes { write, ..self.times });
        let commit = Commit { counters, checkpoint: &checkpoint, skips: &records, progress, times };
        match self.run.commit(transaction, commit) {
            Ok(()) => {}
            Err(RepositoryError::Refused { kind, source }) if !self.writer.prepares() => {
                self.blameless = outputs.is_empty();
                return Ok(Err(ItemError::wrap(kind, "cannot commit the chunk", source)));
            }
            Err(RepositoryError::Conflict { what }) if !self.writer.prepares() => {
                (self.blameless, self.contended) = (true, true);
                return Ok(Err(ItemError::new(
                    ErrorKind::CONTENTION,
                    format!("cannot update {what}"),
                )));
            }
            Err(RepositoryError::Conflict { .. }) => self.commit_again(commit)?,
            Err(source) => return Err(Aborted::Step(self.run.commit_failed(source))),
        }
        self.json = checkpoint;
        (self.times, self.begun) = (ChunkTimes::default(), self.retries.clock.elapsed());
        self.counters = counters;
        *self.checkpoint = reached;
        self.committed().map(Ok)
    }

    /// Returns the checkpoint of this attempt, and writes its stored form to `text`.
    fn reach(
        &mut self,
        chunk: &Processed<I, O>,
        mark: Mark,
        skips: &[PendingSkip],
        text: &mut String,
    ) -> Result<Checkpoint, ItemError> {
        self.note_positions(chunk, skips)?;
        let reached = self.next_checkpoint(chunk, mark, skips.len() as u64);
        text.clear();
        match &mut self.acknowledging {
            None => reached.write_to(text),
            Some(acknowledging) => acknowledging.stored(&reached)?.write_to(text),
        }
        Ok(reached)
    }

    /// Informs the dead letters, the writer and the input of a commit.
    fn committed(&mut self) -> Result<(), Aborted> {
        if let Some(file) = &mut self.dead_letters {
            file.committed();
        }
        let writer = &mut *self.writer;
        if let Err(error) = guarded(|| writer.committed()) {
            let error = self.unless_lease_lost(error)?;
            return Err(Aborted::Step(self.component("writer", "commit", error)));
        }
        let Some(acknowledging) = &mut self.acknowledging else { return Ok(()) };
        let acknowledged = acknowledging.acknowledge();
        acknowledged.map_err(|error| Aborted::Step(self.component("reader", "acknowledge", error)))
    }

    /// Writes the outputs of an attempt, with the listeners around them. The inner error is the writer's.
    fn write(
        &mut self,
        outputs: &[O],
        encoded: Option<&[u8]>,
        transaction: &mut ChunkTransaction<'_>,
    ) -> Result<Result<(), ItemError>, Aborted> {
        if outputs.is_empty() {
            return Ok(Ok(()));
        }
        for listener in &self.hooks.item {
            if let Err(error) =
                guarded(|| listener.before_write(self.retries.scope, outputs, transaction))
            {
                return Err(self.undone_by_listener("before_write", error));
            }
        }
        let writer = &mut *self.writer;
        let clock = self.retries.clock;
        let mut write = || {
            guarded(|| match encoded {
                Some(bytes) => writer.write_encoded(outputs, bytes, transaction),
                None => writer.write(outputs, transaction),
            })
        };
        let written = match &self.settings.breaker {
            None => write(),
            Some(breaker) => breaker.call(clock, write),
        };
        if let Err(error) = written {
            return match transaction.broken() {
                Some(source) => Err(Aborted::Step(self.run.commit_failed(source))),
                None => Ok(Err(self.unless_lease_lost(error)?)),
            };
        }
        for listener in self.hooks.item.iter().rev() {
            if let Err(error) =
                guarded(|| listener.after_write(self.retries.scope, outputs, transaction))
            {
                transaction.roll_back();
                return Err(self.undone_by_listener("after_write", error));
            }
        }
        Ok(Ok(()))
    }

    /// Refuses what a listener did in the store's transaction: it would be lost if the process died between the commit of
    /// the sink and that of the store.
    fn refuse_used(&mut self, transaction: &ChunkTransaction<'_>) -> Result<(), Aborted> {
        if !transaction.is_used() {
            return Ok(());
        }
        let error = ItemError::fatal(
            "cannot use the transaction of the chunk: the writer commits in a database of its own first; write by a second \
             writer in a `CompositeWriter` instead",
        );
        Err(self.undone_by_listener("after_write", error))
    }

    /// Commits the chunk in the sink's own database, before the store. The inner error is the sink's.
    fn prepare(
        &mut self,
        prepared: &PreparedCommit,
        is_empty: bool,
    ) -> Result<Result<(), ItemError>, Aborted> {
        let writer = &mut *self.writer;
        let Err(error) = guarded(|| writer.prepare(prepared)) else { return Ok(Ok(())) };
        // Nothing is rolled back: the restart reads what the sink has committed.
        if [&ErrorKind::COMMIT_UNKNOWN, &ErrorKind::PANIC].contains(&error.kind()) {
            let action = "commit in the sink";
            let source = RepositoryError::unavailable(action, ItemErrorText(error));
            return Err(Aborted::Step(self.run.commit_failed(source)));
        }
        // A constraint that is checked at commit is an item's fault; a lost connection is not.
        self.blameless = is_empty || !error.kind().is_a(ErrorKind::DATA.name());
        Ok(Err(self.unless_lease_lost(error)?))
    }

    /// Repeats the repository's own commit when that commit conflicted with another transaction after the
    /// sink had already committed.
    fn commit_again(&mut self, commit: Commit<'_>) -> Result<(), Aborted> {
        let scope = self.run.scope.clone();
        for attempts in 1.. {
            scope.stop().wait(contention_wait(attempts));
            let next = self.checkpoint.sequence + 1;
            let transaction = ChunkTransaction::new(self.run.store(), &scope, next);
            match self.run.commit(transaction, commit) {
                Err(RepositoryError::Conflict { .. }) if attempts < CONTENTION_ATTEMPTS_MAX => {}
                done => {
                    return done.map_err(|source| Aborted::Step(self.run.commit_failed(source)));
                }
            }
        }
        unreachable!("attempts are counted without end")
    }

    /// Appends the dead letters and stores the writer's position in the checkpoint, as of this attempt's
    /// commit.
    fn note_positions(
        &mut self,
        chunk: &Processed<I, O>,
        skips: &[PendingSkip],
    ) -> Result<(), ItemError> {
        if let Some(file) = &mut self.dead_letters {
            let raw = |skip: &PendingSkip| match skip.source {
                SkipSource::Read(index) => chunk.filled.failures[index].error.raw(),
                SkipSource::Process(_) | SkipSource::Write(_) => None,
            };
            for skip in skips {
                file.append(&skip.record, raw(skip), self.run.lease.execution)?;
            }
            self.checkpoint.dead_letters = Some(file.position()?);
        }
        let (writer, json) = (&mut *self.writer, &mut self.checkpoint.writer);
        guarded(|| to_json(&writer.position()?, json))
    }

    fn next_checkpoint(&self, chunk: &Processed<I, O>, mark: Mark, skips: u64) -> Checkpoint {
        let (records, resolved, reader) = match mark {
            Mark::After => {
                let records = self.checkpoint.records + chunk.filled.records();
                (records, 0, chunk.filled.position.clone())
            }
            Mark::Within(resolved) => {
                (self.checkpoint.records, resolved, self.checkpoint.reader.clone())
            }
        };
        Checkpoint {
            sequence: self.checkpoint.sequence + 1,
            records,
            skips: self.checkpoint.skips + skips,
            resolved,
            reader,
            writer: self.checkpoint.writer.clone(),
            dead_letters: self.checkpoint.dead_letters,
        }
    }

    /// Undoes a failed write attempt: everything returns to the last commit.
    fn rolled_back(&mut self, outputs: &[O], error: &ItemError) -> Result<(), Aborted> {
        self.counters.rollback += 1;
        self.run.roll_back(error);
        let writer = &mut *self.writer;
        guarded(|| writer.rolled_back())
            .map_err(|error| Aborted::Step(self.component("writer", "roll back", error)))?;
        if let Some(file) = &mut self.dead_letters {
            let undone = file.rolled_back();
            undone.map_err(|error| Aborted::Step(self.dead_letter_error("roll back", error)))?;
        }
        for listener in self.hooks.item.iter().rev() {
            guarded(|| listener.on_write_error(self.retries.scope, outputs, error))
                .map_err(|error| self.located_listener("on_write_error", error))?;
        }
        for listener in self.hooks.chunk.iter().rev() {
            guarded(|| listener.on_chunk_error(self.retries.scope, outputs, error))
                .map_err(|error| self.located_listener("on_chunk_error", error))?;
        }
        Ok(())
    }

    /// Informs the listeners, after a commit, about the committed outputs and skips.
    fn notify(
        &mut self,
        chunk: &Processed<I, O>,
        range: std::ops::Range<usize>,
        skips: &[PendingSkip],
    ) -> Result<(), Aborted> {
        let outputs = &chunk.outputs[range];
        let write_errors = std::mem::take(&mut self.write_errors);
        let mut write_error = write_errors.iter();
        for skip in skips {
            let lost = match skip.source {
                SkipSource::Write(_) => write_error.next(),
                _ => None,
            };
            for listener in &self.hooks.skip {
                let result = match skip.source {
                    SkipSource::Read(index) => {
                        let error = &chunk.filled.failures[index].error;
                        guarded(|| listener.on_skip_in_read(self.retries.scope, error))
                    }
                    SkipSource::Process(hole) => {
                        let Hole { index, skipped } = &chunk.holes[hole];
                        let Some(Skipped { error, .. }) = skipped else { continue };
                        let item = &chunk.filled.items[*index];
                        guarded(|| listener.on_skip_in_process(self.retries.scope, item, error))
                    }
                    SkipSource::Write(index) => {
                        let Some(error) = lost else { continue };
                        guarded(|| {
                            listener.on_skip_in_write(
                                self.retries.scope,
                                &chunk.outputs[index],
                                error,
                            )
                        })
                    }
                };
                result.map_err(|error| self.located_listener("on_skip", error))?;
            }
        }
        // The last commit of a scan has no outputs: each output had its own call.
        let whole = !outputs.is_empty() || chunk.outputs.is_empty();
        for listener in self.hooks.chunk.iter().rev().filter(|_| whole) {
            guarded(|| listener.after_chunk(self.retries.scope, outputs))
                .map_err(|error| self.located_listener("after_chunk", error))?;
        }
        Ok(())
    }

    /// Counts one skip against the limit, or fails the step.
    fn admit(&mut self, phase: Phase, offset: u64, error: &ItemError) -> Result<(), Aborted> {
        if let Some(spent) = self.spent_limit(error) {
            self.counters.rollback += 1;
            self.run.roll_back(error);
            let item = self.checkpoint.records + offset;
            let cause = ItemError::new(error.kind().clone(), error.to_string());
            return Err(Aborted::Step(self.limit_error(phase, item, cause, spent)));
        }
        self.count_skip(phase, error);
        Ok(())
    }

    fn count_skip(&mut self, phase: Phase, error: &ItemError) {
        self.counters.count_skip(phase);
        self.skips.count(error);
    }

    /// Returns the limit that one more skip because of `error` exceeds.
    fn spent_limit(&self, error: &ItemError) -> Option<SpentLimit> {
        self.skips.spent(error, self.counters.skips(), &self.run.earlier_skips)
    }

    fn record(
        &self,
        phase: Phase,
        offset: u64,
        error: &ItemError,
        content: Option<String>,
    ) -> SkipRecord {
        let raw = || error.raw().map(|raw| String::from_utf8_lossy(raw).into_owned());
        let mask = |text: String| self.run.scope.parameters().mask_in(text);
        // Some databases cannot store a NUL.
        let storable = |text: String| text.replace('\0', "\u{FFFD}");
        SkipRecord {
            step: self.run.scope.step().to_owned(),
            phase,
            item: self.checkpoint.records + offset,
            location: error.location().map(|at| mask(at.to_owned())),
            kind: error.kind().name().to_owned(),
            message: storable(mask(error.to_string())),
            content: content.or_else(raw).map(storable),
        }
    }

    fn unless_lease_lost(&self, error: ItemError) -> Result<ItemError, Aborted> {
        split_lease_lost(error, self.run.scope.step(), self.run.lease.execution)
            .map_err(Aborted::Step)
    }

    /// Rolls the chunk back because of `error`, which is not tolerated.
    fn fail(&mut self, phase: Phase, item: u64, error: ItemError) -> Aborted {
        if error.is_stop() {
            self.run.roll_back(&error);
            return Aborted::Interrupted;
        }
        self.counters.rollback += 1;
        self.run.roll_back(&error);
        self.located(phase, item, item, error)
    }

    fn located(&self, phase: Phase, item: u64, last: u64, error: ItemError) -> Aborted {
        let (step, source) = (self.run.scope.step().to_owned(), ItemErrorText(error));
        Aborted::Step(StepError::Item { step, phase, item, last, source })
    }

    fn limit_error(
        &self,
        phase: Phase,
        item: u64,
        error: ItemError,
        SpentLimit { limit, kind }: SpentLimit,
    ) -> StepError {
        let (step, source) = (self.run.scope.step().to_owned(), ItemErrorText(error));
        StepError::SkipLimit { step, limit, kind, phase, item, source }
    }

    fn listener_failed(&mut self, call: &'static str, error: ItemError) -> Aborted {
        self.counters.rollback += 1;
        self.run.roll_back(&error);
        self.located_listener(call, error)
    }

    /// Rolls an attempt back, in the sink too, because a listener failed in the middle of a write.
    fn undone_by_listener(&mut self, call: &'static str, error: ItemError) -> Aborted {
        let undone = guarded(|| self.writer.rolled_back());
        match undone {
            Ok(()) => self.listener_failed(call, error),
            Err(error) => Aborted::Step(self.component("writer", "roll back", error)),
        }
    }

    fn located_listener(&self, call: &'static str, error: ItemError) -> Aborted {
        let (step, source) = (self.run.scope.step().to_owned(), ItemErrorText(error));
        Aborted::Step(StepError::Listener { step, call, source })
    }

    fn component(&self, part: &'static str, action: &'static str, error: ItemError) -> StepError {
        let (step, source) = (self.run.scope.step().to_owned(), ItemErrorText(error));
        StepError::Component { step, part, action, source }
    }

    fn dead_letter_error(&self, action: &'static str, error: ItemError) -> StepError {
        self.component("dead-letter file", action, error)
    }
}

/// The reason why settling ended early.
enum Aborted {
    Step(StepError),
    Interrupted,
}
