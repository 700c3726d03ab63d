//! The loop that runs the units of a lane, generic over the types of its step.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::unit_work::{ReadyWork, Sink, UnitWork};
use super::{FinalResponse, OnEnd, Plan, ProgressiveWork, Settings};
use crate::error::ItemError;
use crate::item::guarded;
use crate::progressive::lane::{CommitAction, Halt, LaneRun, Next, UnitEnd};
use crate::progressive::progress::UnitsSummary;
use crate::progressive::units::{Extent, UnitRange, UnitReader, Units};
use crate::scope::StepScope;

/// The work of a step on its units: processor, writer, reduction and response.
#[doc(hidden)]
pub struct Body<W, O, P> {
    pub(super) work: W,
    pub(super) writer: Option<MakeWriter<O>>,
    pub(super) reduce: Option<Reduce<O, P>>,
    pub(super) respond: Option<Respond<P>>,
    pub(super) on_end: Option<Box<OnEnd>>,
}

type MakeWriter<O> = Box<dyn Fn(&StepScope) -> Result<Box<dyn Sink<O>>, ItemError> + Send + Sync>;
type Respond<P> =
    Box<dyn Fn(Option<P>, &UnitsSummary) -> Result<FinalResponse, ItemError> + Send + Sync>;

type Fold<O, P> = Box<dyn Fn(Option<P>, &O) -> Result<P, ItemError> + Send + Sync>;
type Combine<P> = Box<dyn Fn(P, P) -> Result<P, ItemError> + Send + Sync>;

pub(super) struct Reduce<O, P> {
    pub(super) fold: Fold<O, P>,
    pub(super) combine: Combine<P>,
}

/// The work of a progressive step, generic over its types.
pub(super) struct Typed<U, W, O, P> {
    pub(super) settings: Settings,
    pub(super) units: U,
    pub(super) body: Body<W, O, P>,
}

/// The state of a lane that works on a segment.
struct Work<'t, U: Units, R, O, P> {
    ready: R,
    reader: Option<U::Reader>,
    plan: &'t U::Plan,
    /// The partial result of the units of the segment, those of `outputs` included.
    partial: Option<P>,
    /// Outputs that are not committed.
    outputs: Vec<O>,
    sink: Option<Box<dyn Sink<O>>>,
    /// Whether a fold failed and consumed `partial`.
    is_torn: bool,
}

impl<U, W, O, P> ProgressiveWork for Typed<U, W, O, P>
where
    U: Units,
    W: UnitWork<U::Unit, Output = O>,
    O: Send + Sync,
    P: Serialize + DeserializeOwned + Send,
{
    fn settings(&self) -> Settings {
        self.settings
    }

    fn plan(&self, scope: &StepScope) -> Result<Plan, ItemError> {
        let (extent, plan) = match guarded(|| self.units.extent(scope))? {
            Extent::Split(units, plan) => (Ok(units), plan),
            Extent::Ranks(ranks, plan) => (Err(ranks), plan),
        };
        Ok(Plan { text: serde_json::to_string(&plan)?, extent })
    }

    fn work(&self, lane: &mut LaneRun<'_>) -> Result<(), Halt> {
        let plan: U::Plan = serde_json::from_str(lane.plan())
            .map_err(|error| Halt::fatal("the plan of the units cannot be read", error.into()))?;
        let total = lane.watch_for_hang(|| guarded(|| self.units.total(&plan, lane.scope())));
        if let Some(total) = total
            .map_err(|error| Halt::fatal("the total of the units cannot be determined", error))?
        {
            lane.set_total(total);
        }
        let sink = match &self.body.writer {
            Some(make) => {
                let open = || {
                    let mut sink = make(lane.scope())?;
                    sink.open(lane.scope())?;
                    Ok(sink)
                };
                let opened = lane.watch_for_hang(|| guarded(open));
                Some(opened.map_err(|error| Halt::fatal("the writer failed to open", error))?)
            }
            None => None,
        };
        let ready = lane
            .watch_for_hang(|| guarded(|| self.body.work.ready(lane.scope())))
            .map_err(|error| Halt::fatal("the processor cannot be created", error))?;
        let mut work = Work::<U, W::Ready, O, P> {
            ready,
            reader: None,
            plan: &plan,
            partial: None,
            outputs: Vec::new(),
            sink,
            is_torn: false,
        };
        loop {
            if lane.has_moved() {
                self.take_up(&mut work, lane)?;
            }
            match lane.next()? {
                Next::Unit => self.unit(&mut work, lane)?,
                Next::Commit(then) => self.commit(&mut work, lane, then)?,
                Next::Idle => lane.idle()?,
                Next::End => return Ok(()),
            }
        }
    }

    fn assemble(
        &self,
        partials: Vec<Option<String>>,
        summary: &UnitsSummary,
    ) -> Result<FinalResponse, ItemError> {
        guarded(|| {
            let mut whole: Option<P> = None;
            if let Some(reduce) = &self.body.reduce {
                for partial in partials.into_iter().flatten() {
                    let partial: P = serde_json::from_str(&partial)?;
                    whole = Some(match whole {
                        Some(whole) => (reduce.combine)(whole, partial)?,
                        None => partial,
                    });
                }
            }
            match &self.body.respond {
                Some(respond) => respond(whole, summary),
                None => {
                    let UnitsSummary { units_done, units_failed, .. } = summary;
                    FinalResponse::json(&serde_json::json!({
                        "units_done": units_done,
                        "units_failed": units_failed,
                        "result": whole,
                    }))
                }
            }
        })
    }

    fn on_end(&self) -> Option<&OnEnd> {
        self.body.on_end.as_deref()
    }
}

impl<U, W, O, P> Typed<U, W, O, P>
where
    U: Units,
    W: UnitWork<U::Unit, Output = O>,
    P: Serialize + DeserializeOwned,
{
    /// Begins at the position of the lane's segment, with its committed partial result.
    fn take_up(
        &self,
        work: &mut Work<'_, U, W::Ready, O, P>,
        lane: &LaneRun<'_>,
    ) -> Result<(), Halt> {
        work.reader = None;
        work.outputs.clear();
        let read = |text| {
            serde_json::from_str(text).map_err(|error| {
                Halt::fatal("the partial result of the units cannot be read", error.into())
            })
        };
        work.partial = match lane.partial().filter(|_| self.body.reduce.is_some()) {
            Some(text) => Some(read(text)?),
            None => None,
        };
        Ok(())
    }

    /// Makes one attempt at the next unit of the lane.
    fn unit(
        &self,
        work: &mut Work<'_, U, W::Ready, O, P>,
        lane: &mut LaneRun<'_>,
    ) -> Result<(), Halt> {
        self.open_reader(work, lane)?;
        let attempt = match lane.begin_unit() {
            Ok(()) => guarded(|| self.attempt(work, lane)),
            Err(given_up) => Err(given_up),
        };
        match attempt {
            Ok(Attempted::Output(output)) => {
                work.outputs.push(output);
                lane.unit_done(UnitEnd::Done);
            }
            Ok(Attempted::Filtered) => lane.unit_done(UnitEnd::Filtered),
            Ok(Attempted::NoMore) => lane.no_more_units(),
            Err(error) => {
                // The state of the reader is unknown: the next attempt or unit gets a new reader.
                work.reader = None;
                if std::mem::take(&mut work.is_torn) {
                    lane.rewind(&error, 0);
                } else {
                    lane.unit_failed(&error);
                }
            }
        }
        Ok(())
    }

    fn open_reader(
        &self,
        work: &mut Work<'_, U, W::Ready, O, P>,
        lane: &mut LaneRun<'_>,
    ) -> Result<(), Halt> {
        if work.reader.is_none() {
            let (rank, from) = lane.next_unit();
            let range = UnitRange { rank, from };
            let scope = lane.scope().clone();
            let opened = lane.opening(|| guarded(|| self.units.open(work.plan, range, &scope)));
            work.reader =
                Some(opened.map_err(|error| Halt::fatal("the unit reader failed to open", error))?);
        }
        Ok(())
    }

    #[inline]
    fn attempt(
        &self,
        work: &mut Work<'_, U, W::Ready, O, P>,
        lane: &LaneRun<'_>,
    ) -> Result<Attempted<O>, ItemError> {
        let Some(reader) = &mut work.reader else { return Ok(Attempted::NoMore) };
        let Some(unit) = reader.next()? else { return Ok(Attempted::NoMore) };
        let Some(output) = work.ready.run(&unit, lane.time_left())? else {
            return Ok(Attempted::Filtered);
        };
        if let Some(reduce) = &self.body.reduce {
            // While the fold runs, it owns the value, which is lost when the fold fails.
            work.is_torn = true;
            work.partial = Some((reduce.fold)(work.partial.take(), &output)?);
            work.is_torn = false;
        }
        Ok(Attempted::Output(output))
    }

    fn commit(
        &self,
        work: &mut Work<'_, U, W::Ready, O, P>,
        lane: &mut LaneRun<'_>,
        then: CommitAction,
    ) -> Result<(), Halt> {
        let stored = work.partial.as_ref().map(serde_json::to_string).transpose();
        let partial = stored.map_err(|error| {
            Halt::fatal("the partial result of the units cannot be stored", error.into())
        })?;
        let Work { outputs, sink, .. } = work;
        let committed = lane.commit(then, partial, &mut |chunk| match sink {
            Some(sink) if !outputs.is_empty() => guarded(|| sink.write(outputs, chunk)),
            _ => Ok(()),
        });
        if let Some(sink) = &mut work.sink {
            sink.ended(matches!(committed, Ok(true)))
                .map_err(|error| Halt::fatal("the writer failed to roll back", error))?;
        }
        if committed? {
            work.outputs.clear();
        }
        Ok(())
    }
}

enum Attempted<O> {
    Output(O),
    Filtered,
    NoMore,
}
