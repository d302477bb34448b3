//! The view that stays: fills the terminal, once a second with what is new, until q is pressed.
//!
//! A thread reads the answers and goes on asking when the daemon is started anew; the terminal belongs to the thread that
//! draws, which leaves it as it was, however it ends.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Sparkline};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::ask::{AskError, Instance};
use super::rates::Rates;
use super::view;
use crate::control::status::Status;

/// Seconds that are remembered: more than a terminal is wide.
const HISTORY: usize = 500;

/// How soon a key or a signal is noticed.
const RESPONSE: Duration = Duration::from_millis(100);

/// Wait before asking again who does not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers that wait to be drawn.
const MAX_WAITING: usize = 4;

type News = Result<Status, AskError>;

/// Shows the tunnel until q, Escape or Ctrl-C is pressed or a signal says so.
///
/// # Errors
/// The tunnel does not run or may not be asked, or the terminal fails.
pub fn run(instance: Instance) -> Result<()> {
    // What is wrong from the start is said in one line, not in a view.
    let first = instance.status()?;
    let ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ending))?;
    }
    let (sender, receiver) = sync_channel(MAX_WAITING);
    let name = instance.name().to_owned();
    thread::spawn(move || listen(&instance, &sender));
    let mut terminal = ratatui::try_init().context("Cannot use the terminal")?;
    let _restored = Restored;
    let mut view = View::new(name, first);
    while !ending.load(Ordering::Relaxed) {
        terminal.draw(|frame| view.draw(frame)).context("Cannot draw on the terminal")?;
        if next_key_ends().context("Cannot read from the terminal")? {
            break;
        }
        view.take(&receiver);
    }
    Ok(())
}

/// Gives the terminal back; in a panic the hook of `ratatui` has done so.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of a tool, which is nobody's event loop")]
fn listen(instance: &Instance, sender: &SyncSender<News>) {
    loop {
        let answers = match instance.watch() {
            Ok(answers) => answers,
            Err(error) => {
                if sender.send(Err(error)).is_err() {
                    return;
                }
                thread::sleep(PAUSE);
                continue;
            }
        };
        for answer in answers {
            if sender.send(answer).is_err() {
                return;
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Waits a moment for a key.
fn next_key_ends() -> io::Result<bool> {
    if !event::poll(RESPONSE)? {
        return Ok(false);
    }
    let Event::Key(key) = event::read()? else { return Ok(false) };
    let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    let ends = matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc) || is_interrupt;
    Ok(ends && key.kind != KeyEventKind::Release)
}

/// What is shown.
struct View {
    name: String,
    status: Status,
    rates: Rates,
    /// Why the status is not the present one.
    trouble: Option<String>,
    received: VecDeque<u64>,
    sent: VecDeque<u64>,
    rtt: VecDeque<u64>,
}

impl View {
    fn new(name: String, status: Status) -> Self {
        Self {
            name,
            status,
            rates: Rates::default(),
            trouble: None,
            received: VecDeque::new(),
            sent: VecDeque::new(),
            rtt: VecDeque::new(),
        }
    }

    fn take(&mut self, news: &Receiver<News>) {
        while let Ok(news) = news.try_recv() {
            match news {
                Ok(status) => self.update(status),
                Err(error) => self.trouble = Some(error.to_string()),
            }
        }
    }

    fn update(&mut self, status: Status) {
        self.rates = Rates::between(&self.status, &status);
        self.trouble = None;
        let micros = status.report.rtt_seconds.map_or(0, |seconds| (seconds * 1e6) as u64);
        for (history, value) in [
            (&mut self.received, self.rates.received.bytes as u64),
            (&mut self.sent, self.rates.sent.bytes as u64),
            (&mut self.rtt, micros),
        ] {
            history.push_back(value);
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
        self.status = status;
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows = [Constraint::Length(7), Constraint::Fill(2), Constraint::Fill(1), Constraint::Length(1)];
        let [link, charts, lists, foot] = Layout::vertical(rows).areas(frame.area());
        self.draw_link(frame, link);
        let thirds = [Constraint::Fill(1); 3];
        let [received, sent, rtt] = Layout::horizontal(thirds).areas(charts);
        let (in_rate, out_rate) = (self.rates.received, self.rates.sent);
        let title = |word: &str, bytes: f64| format!(" {word} {} ", view::bits(bytes));
        chart(
            frame,
            received,
            title("received", in_rate.bytes),
            packets(in_rate.packets),
            &self.received,
            Color::Green,
        );
        chart(frame, sent, title("sent", out_rate.bytes), packets(out_rate.packets), &self.sent, Color::Blue);
        let title = self
            .status
            .report
            .rtt_seconds
            .map_or(" rtt unknown ".to_owned(), |rtt| format!(" rtt {} ", view::rtt(rtt)));
        let loss = self.status.report.loss.map(|loss| format!(" loss {} ", view::percent(loss.recent)));
        chart(frame, rtt, title, loss.unwrap_or_default(), &self.rtt, Color::Yellow);
        let [drops, changes] = Layout::horizontal([Constraint::Fill(1); 2]).areas(lists);
        self.draw_drops(frame, drops);
        self.draw_changes(frame, changes);
        frame.render_widget(Paragraph::new(" q quits").style(Style::new().fg(Color::DarkGray)), foot);
    }

    fn draw_link(&self, frame: &mut Frame<'_>, area: Rect) {
        let status = &self.status;
        let (text, color) = match &self.trouble {
            Some(trouble) => (trouble.clone(), Color::Red),
            None => (view::state(status), color_of(&status.report.link.state)),
        };
        let label = |name: &'static str| Span::styled(format!("{name:<10}"), Style::new().fg(Color::DarkGray));
        let lines = vec![
            Line::from(vec![label("link"), Span::styled(text, Style::new().fg(color).add_modifier(Modifier::BOLD))]),
            Line::from(vec![label("peer"), Span::raw(view::peer(status))]),
            Line::from(vec![label("device"), Span::raw(view::device(status))]),
            Line::from(vec![label("security"), Span::raw(view::security(status))]),
            Line::from(vec![label("path"), Span::raw(view::path(status))]),
        ];
        let right = format!(" simpletun {}, running for {} ", status.version, view::duration(status.uptime_seconds));
        let block = Block::bordered().title(format!(" {} ", self.name)).title(Line::from(right).right_aligned());
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn draw_drops(&self, frame: &mut Frame<'_>, area: Rect) {
        let title = format!(" dropped {:.0}/s ", self.rates.dropped());
        let drops = self.status.report.drops.iter().filter(|(_, count)| **count > 0);
        let mut drops: Vec<(&String, &u64)> = drops.collect();
        drops.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let lines = drops.into_iter().map(|(cause, count)| {
            let rate = self.rates.drops.get(cause).copied().unwrap_or_default();
            let style = if rate > 0.0 { Style::new().fg(Color::Red) } else { Style::new() };
            Line::styled(format!("{cause:<20}{count:>10}{rate:>6.0}/s"), style)
        });
        let queue = &self.status.report.queue;
        let waiting = format!(" waiting {}, most {} ", view::bytes(queue.bytes), view::bytes(queue.most_bytes));
        let block = Block::bordered().title(title).title_bottom(waiting);
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
    }

    fn draw_changes(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines = self.status.report.link.changes.iter().map(|change| {
            let reason = change.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let age = format!("{:>8} ago  ", view::duration(change.age_seconds));
            let state = Span::styled(change.state.clone(), Style::new().fg(color_of(&change.state)));
            Line::from(vec![Span::raw(age), state, Span::raw(reason)])
        });
        let counts = &self.status.report.counts;
        let counted = format!(" returned {}x, rekeys {} ", counts.reconnects, counts.rekeys);
        let block = Block::bordered().title(" changes ").title_bottom(counted);
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
    }
}

fn packets(rate: f64) -> String {
    format!(" {rate:.0} packets/s ")
}

fn color_of(state: &str) -> Color {
    match state {
        "up" => Color::Green,
        "interrupted" | "unknown" => Color::Yellow,
        _ => Color::Red,
    }
}

/// The latest seconds, the newest at the right.
fn chart(frame: &mut Frame<'_>, area: Rect, title: String, bottom: String, history: &VecDeque<u64>, color: Color) {
    let block = Block::bordered().title(title).title_bottom(bottom);
    let width = usize::from(block.inner(area).width);
    let known = history.iter().skip(history.len().saturating_sub(width)).copied();
    let empty = std::iter::repeat_n(0, width.saturating_sub(history.len()));
    let data: Vec<u64> = empty.chain(known).collect();
    frame.render_widget(Sparkline::default().block(block).data(data).style(Style::new().fg(color)), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(width: u16, height: u16, seconds: u64) -> String {
        let mut view = View::new("site-a".to_owned(), Status::example());
        for second in 1..=seconds {
            let mut status = Status::example();
            status.uptime_seconds += second as f64;
            status.report.traffic.network_received.bytes += second * second * 1000;
            view.update(status);
        }
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_has_its_place_on_small_and_large_terminals() {
        for (width, height) in [(80, 24), (200, 50)] {
            let text = drawn(width, height, 20);
            for part in [
                "site-a",
                "up for 12s",
                "203.0.113.7:55555 over udp",
                "tun0 (tun), mtu 1420",
                "aes-256-gcm",
                "received 312 kbit/s",
                "rtt 12.3 ms",
                "loss 0.4%",
                "no-peer",
                "down (silence)",
                "rekeys 781",
                "q quits",
                "█",
            ] {
                assert!(text.contains(part), "{part} at {width}x{height}:\n{text}");
            }
        }
    }

    #[test]
    fn no_terminal_is_too_small_and_no_watch_too_long() {
        for (width, height) in [(1, 1), (10, 3), (79, 7), (80, 24)] {
            drawn(width, height, 0);
            drawn(width, height, HISTORY as u64 + 10);
        }
    }

    #[test]
    fn a_daemon_that_has_gone_is_told_of_until_it_is_back() {
        let mut view = View::new("a".to_owned(), Status::example());
        let (sender, receiver) = sync_channel(MAX_WAITING);
        sender.send(Err(AskError::Silent("a".to_owned()))).unwrap();
        view.take(&receiver);
        assert!(view.trouble.as_ref().is_some_and(|trouble| trouble.contains("does not answer")));
        sender.send(Ok(Status::example())).unwrap();
        view.take(&receiver);
        assert!(view.trouble.is_none());
    }
}
