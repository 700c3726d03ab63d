//! `top`: all executions that run or failed lately, on a terminal, with keys to stop and restart them.

use std::io::IsTerminal;
use std::time::Duration;

use batchwright::BatchStatus;
use batchwright::execution::{ExecutionId, ExecutionSummary};
use batchwright::launch::{Launch, LaunchOptions};
use batchwright::query::ExecutionFilter;
use jiff::Timestamp;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table, TableState};

use crate::context::{App, who};
use crate::error::{self, CliError};

/// How often the store is read.
const INTERVAL: Duration = Duration::from_secs(1);
/// Most rows.
const ROWS_MAX: usize = 200;

/// Shows executions until `q` is pressed.
pub(super) fn top(app: &App) -> Result<u8, CliError> {
    if !std::io::stdout().is_terminal() {
        let what = "`top` needs a terminal; `batchwright executions` prints a list";
        return Err(CliError::Usage(what.to_owned()));
    }
    let has_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut screen = Screen { has_colour, ..Screen::default() };
    let mut terminal = ratatui::try_init()?;
    let ended = run(app, &mut screen, &mut terminal);
    ratatui::try_restore()?;
    ended.map(|()| error::OK)
}

fn run(
    app: &App,
    screen: &mut Screen,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), CliError> {
    loop {
        let now = app.operator.clock().now();
        match rows(app, screen.view) {
            Ok(rows) => screen.show(rows),
            // The screen stays, and the store is asked again.
            Err(error) => screen.message = batchwright::report(&error),
        }
        terminal.draw(|frame| screen.draw(frame, now))?;
        if !event::poll(INTERVAL)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        let code = match (key.modifiers.contains(KeyModifiers::CONTROL), key.code) {
            (true, KeyCode::Char('c')) => KeyCode::Char('q'),
            (true, _) => continue,
            (false, code) => code,
        };
        match screen.key(code) {
            Action::Nothing => {}
            Action::Quit => return Ok(()),
            Action::Stop(id) => screen.message = given(stop(app, id), "stop", id),
            Action::Restart(id) => screen.message = given(restart(app, id), "restart", id),
        }
    }
}

fn rows(app: &App, view: View) -> Result<Vec<ExecutionSummary>, CliError> {
    let filter = match view {
        View::Running => ExecutionFilter::default().running(),
        View::Failed => ExecutionFilter {
            newest_of_instance: true,
            ..ExecutionFilter::default().status(BatchStatus::Failed)
        },
        View::All => ExecutionFilter::default(),
    };
    let found = app.operator.queries().executions(&filter.limit(ROWS_MAX))?;
    Ok(app.operator.explorer().summaries(&found)?)
}

fn stop(app: &App, id: ExecutionId) -> Result<(), CliError> {
    app.operator.stop(id)?;
    app.audit("stop", &format!("execution {id}"))
}

fn restart(app: &App, id: ExecutionId) -> Result<(), CliError> {
    app.job_of(id)?;
    let options = LaunchOptions { triggered_by: Some(who()), ..LaunchOptions::default() };
    app.operator.enqueue(&Launch::restart(id).options(options))?;
    Ok(())
}

fn given(done: Result<(), CliError>, verb: &str, id: ExecutionId) -> String {
    match (done, verb) {
        (Ok(()), "restart") => format!("the restart of execution {id} waits for a server"),
        (Ok(()), _) => format!("execution {id} was asked to stop"),
        (Err(error), _) => batchwright::report(&error),
    }
}

/// Which executions are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum View {
    #[default]
    Running,
    Failed,
    All,
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    Quit,
    Stop(ExecutionId),
    Restart(ExecutionId),
}

/// What is on the screen.
#[derive(Default)]
struct Screen {
    view: View,
    rows: Vec<ExecutionSummary>,
    /// The chosen execution: it stays chosen when others come and go.
    chosen: Option<ExecutionId>,
    /// The execution that is to be stopped, until that is confirmed.
    asks: Option<ExecutionId>,
    message: String,
    has_colour: bool,
}

impl Screen {
    fn show(&mut self, rows: Vec<ExecutionSummary>) {
        self.rows = rows;
        if self.index().is_none() {
            self.chosen = self.rows.first().map(|one| one.id);
        }
    }

    fn index(&self) -> Option<usize> {
        self.rows.iter().position(|one| Some(one.id) == self.chosen)
    }

    fn move_by(&mut self, by: isize) {
        let Some(last) = self.rows.len().checked_sub(1) else { return };
        let index = self.index().unwrap_or(0).saturating_add_signed(by).min(last);
        self.chosen = Some(self.rows[index].id);
    }

    fn key(&mut self, key: KeyCode) -> Action {
        self.message.clear();
        if let Some(id) = self.asks.take() {
            let is_yes = matches!(key, KeyCode::Char('y' | 'Y'));
            return if is_yes { Action::Stop(id) } else { Action::Nothing };
        }
        let chosen = self.index().map(|index| &self.rows[index]);
        match (key, chosen) {
            (KeyCode::Char('q') | KeyCode::Esc, _) => return Action::Quit,
            (KeyCode::Char('j') | KeyCode::Down, _) => self.move_by(1),
            (KeyCode::Char('k') | KeyCode::Up, _) => self.move_by(-1),
            (KeyCode::Char('1'), _) => self.view = View::Running,
            (KeyCode::Char('2'), _) => self.view = View::Failed,
            (KeyCode::Char('3'), _) => self.view = View::All,
            (KeyCode::Char('s'), Some(one)) if one.status.is_running() => self.asks = Some(one.id),
            (KeyCode::Char('r'), Some(one)) if one.status.is_restartable() => {
                return Action::Restart(one.id);
            }
            (KeyCode::Char('s' | 'r'), Some(one)) => {
                self.message = format!("execution {} is {}: nothing was done", one.id, one.status);
            }
            _ => {}
        }
        Action::Nothing
    }

    fn draw(&self, frame: &mut Frame<'_>, now: Timestamp) {
        let areas =
            Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]);
        let [head, list, foot] = areas.areas(frame.area());
        let name = match self.view {
            View::Running => "running",
            View::Failed => "failed, newest of each instance",
            View::All => "newest",
        };
        let title = format!("{} executions: {name}    {now:.0}", self.rows.len());
        frame.render_widget(Line::styled(title, Modifier::BOLD), head);
        let header =
            ["ID", "JOB", "STATUS", "PROGRESS", "WRITTEN", "SKIPPED", "TIME", "STARTED BY"];
        let header = Row::new(header).style(Modifier::UNDERLINED);
        let rows = self.rows.iter().map(|one| self.row(one, now));
        let widths = [
            Constraint::Length(9),
            Constraint::Fill(2),
            Constraint::Length(10),
            Constraint::Fill(2),
            Constraint::Length(12),
            Constraint::Length(8),
            Constraint::Length(9),
            Constraint::Fill(1),
        ];
        let table = Table::new(rows, widths).header(header).row_highlight_style(Modifier::REVERSED);
        let mut state = TableState::new().with_selected(self.index());
        frame.render_stateful_widget(table, list, &mut state);
        let foot_text = match (self.asks, &*self.message) {
            (Some(id), _) => {
                format!("Stop execution {id} at its next chunk boundary? y: yes, any other key: no")
            }
            (None, "") => {
                "1 running  2 failed  3 all  j/k move  s stop  r restart  q quit".to_owned()
            }
            (None, message) => batchwright::text::shown(message).into_owned(),
        };
        frame.render_widget(Line::raw(foot_text), foot);
    }

    fn row(&self, one: &ExecutionSummary, now: Timestamp) -> Row<'static> {
        let shown = |text: &str| batchwright::text::shown(text).into_owned();
        let status = if one.stale { "STALE".to_owned() } else { one.status.to_string() };
        let written: u64 = one.steps.iter().map(|step| step.counters.write).sum();
        let skipped: u64 = one.steps.iter().map(|step| step.counters.skips()).sum();
        let begun = one.started_at.unwrap_or(one.created_at);
        let took = one.ended_at.unwrap_or(now).duration_since(begun).as_secs().max(0);
        let colour = match one.status {
            _ if !self.has_colour => Style::default(),
            BatchStatus::Completed => Style::from(Color::Green),
            BatchStatus::Failed => Style::from(Color::Red),
            status if status.is_running() => Style::from(Color::Blue),
            _ => Style::from(Color::Yellow),
        };
        Row::new([
            Cell::from(one.id.to_string()),
            Cell::from(shown(&one.job)),
            Cell::from(status).style(colour),
            Cell::from(shown(&progress(one, now))),
            Cell::from(written.to_string()),
            Cell::from(skipped.to_string()),
            Cell::from(format!("{}:{:02}", took / 60, took % 60)),
            Cell::from(shown(one.triggered_by.as_deref().unwrap_or("application"))),
        ])
    }
}

/// Returns how far the running step is, or why the execution failed.
fn progress(one: &ExecutionSummary, now: Timestamp) -> String {
    if let Some(failure) = &one.failure {
        return format!("{}: {}", failure.code, failure.message);
    }
    let Some(step) = one.steps.iter().rev().find(|step| step.status.is_running()) else {
        return String::new();
    };
    let mut text = step.name.clone();
    if let Some(progress) = step.progress.filter(|progress| progress.total > 0) {
        text.push_str(&format!(" {} %", progress.done.saturating_mul(100) / progress.total));
    }
    if let Some(ends_at) = step.estimate.and_then(|estimate| estimate.ends_at) {
        text.push_str(&format!(", {} s left", ends_at.duration_since(now).as_secs().max(0)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use batchwright::{Job, JobOperator, JobParameters, MemoryRepository, TaskletStep};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    /// Two executions: one that failed, and one that waits.
    fn screen() -> Screen {
        let operator = JobOperator::new(Arc::new(MemoryRepository::new()));
        let failing = TaskletStep::call("a", || -> Result<(), batchwright::ItemError> {
            Err(batchwright::ItemError::fatal("the \u{1b}[31mfile is not there"))
        });
        operator.registry().register(Job::builder("load").step(failing).build().unwrap()).unwrap();
        let waiting = Job::builder("wait").step(TaskletStep::call("a", || ()));
        operator.registry().register(waiting.build().unwrap()).unwrap();
        let _ = operator.run("load", JobParameters::new());
        operator.enqueue(&Launch::start("wait", JobParameters::new())).unwrap();
        let found = operator.queries().executions(&ExecutionFilter::default()).unwrap();
        let mut screen = Screen::default();
        screen.show(operator.explorer().summaries(&found).unwrap());
        screen
    }

    fn drawn(screen: &Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(220, 6)).unwrap();
        terminal.draw(|frame| screen.draw(frame, Timestamp::UNIX_EPOCH)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn executions_are_shown_and_keys_move_between_them() {
        let mut screen = screen();
        let text = drawn(&screen);
        for part in ["2 executions: running", "STARTING", "FAILED", "q quit"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains("file is not") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(screen.chosen, Some(ExecutionId(2)));
        screen.key(KeyCode::Char('j'));
        screen.key(KeyCode::Down);
        assert_eq!(screen.chosen, Some(ExecutionId(1)), "the last one stays chosen");
        assert_eq!(screen.key(KeyCode::Char('r')), Action::Restart(ExecutionId(1)));
        assert_eq!(screen.key(KeyCode::Char('s')), Action::Nothing, "it has ended");
        assert!(drawn(&screen).contains("execution 1 is FAILED: nothing was done"));
        screen.key(KeyCode::Up);
        assert_eq!(screen.key(KeyCode::Char('s')), Action::Nothing, "it asks first");
        assert!(drawn(&screen).contains("Stop execution 2"));
        assert_eq!(screen.key(KeyCode::Char('n')), Action::Nothing);
        screen.key(KeyCode::Char('s'));
        assert_eq!(screen.key(KeyCode::Char('y')), Action::Stop(ExecutionId(2)));
        screen.key(KeyCode::Char('2'));
        assert_eq!(screen.view, View::Failed);
        assert_eq!(screen.key(KeyCode::Esc), Action::Quit);
    }

    #[test]
    fn the_chosen_execution_stays_chosen_when_others_come() {
        let mut screen = screen();
        screen.key(KeyCode::Char('j'));
        let mut rows = screen.rows.clone();
        rows.insert(0, ExecutionSummary { id: ExecutionId(3), ..rows[0].clone() });
        screen.show(rows);
        assert_eq!((screen.chosen, screen.index()), (Some(ExecutionId(1)), Some(2)));
        screen.show(Vec::new());
        assert_eq!(screen.chosen, None);
        assert!(drawn(&screen).contains("0 executions"));
    }
}
