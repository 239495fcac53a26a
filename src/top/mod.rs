//! `octroi top`: tenants and ports with their rates, in a terminal.
//!
//! It reads what `octroi status` reads: the daemon, or the pins when none answers. It changes nothing. Flows are another
//! matter: with a daemon, whoever looks at them is in the ledger first (decision 0053).

mod flows;
mod model;
mod view;

#[cfg(test)]
mod tests;

use crate::{config, live, status};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use model::{After, Key, View};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::{Duration, Instant},
};

/// `octroi top`.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory of the control socket.
    #[arg(long, default_value = config::Host::RUN_DIR, value_name = "DIR")]
    run_dir: PathBuf,
    /// Directory of the pins.
    #[arg(long, default_value = config::Host::PIN_DIR, value_name = "DIR")]
    pin_dir: PathBuf,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
}

/// Shows until somebody leaves.
///
/// # Errors
/// When there is nothing to read, or no terminal.
pub fn run(options: &Options) -> Result<()> {
    ensure!(
        io::stdout().is_terminal() && io::stdin().is_terminal(),
        "top needs a terminal; `octroi status --json` is for programs"
    );
    // Told before the screen is taken: whoever may not read sees why.
    let view = View::new(status::read(&options.run_dir, &options.pin_dir)?);
    let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
    let done = show(&mut terminal, view, options);
    ratatui::restore();
    done
}

fn show(terminal: &mut DefaultTerminal, mut view: View, options: &Options) -> Result<()> {
    let interval = Duration::from_secs(options.interval);
    let mut read_at = Instant::now();
    let mut look_at = read_at + interval;
    let mut flows_at = read_at;
    loop {
        // Another level: its flows are looked at now, and not with the next look.
        if view
            .flows
            .as_ref()
            .is_some_and(|flows| flows.now.is_none() && flows.error.is_none())
        {
            look_at_flows(&mut view, options, &mut flows_at);
        }
        terminal.draw(|frame| view::draw(frame, &view))?;
        let wait = look_at.saturating_duration_since(Instant::now());
        if event::poll(wait)?
            && let Event::Key(pressed) = event::read()?
            && let Some(key) = key(pressed)
        {
            match key {
                Some(key) if view.press(key) == After::Go => {}
                _ => return Ok(()),
            }
        }
        if look_at > Instant::now() {
            continue;
        }
        look_at = Instant::now() + interval;
        if view.paused {
            continue;
        }
        match status::read(&options.run_dir, &options.pin_dir) {
            Ok(report) => {
                let now = Instant::now();
                view.take(report, now.duration_since(read_at));
                read_at = now;
            }
            Err(error) => view.error = Some(format!("{error:#}")),
        }
        look_at_flows(&mut view, options, &mut flows_at);
    }
}

/// Looks at the flows that the level is of; `last`: when that was done.
fn look_at_flows(view: &mut View, options: &Options, last: &mut Instant) {
    let Some(flows) = &mut view.flows else {
        return;
    };
    let look = flows.now.as_ref().map_or(0, |seen| seen.look);
    match live::read(&options.run_dir, &options.pin_dir, &flows.subject, look) {
        Ok(seen) => {
            let now = Instant::now();
            flows.take(seen, now.duration_since(*last));
            *last = now;
        }
        Err(error) => flows.error = Some(format!("{error:#}")),
    }
}

/// What a key means here; `None`: nothing. `Some(None)`: leave.
fn key(pressed: KeyEvent) -> Option<Option<Key>> {
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    let control = pressed.modifiers.contains(KeyModifiers::CONTROL);
    Some(Some(match pressed.code {
        KeyCode::Char('c' | 'd') if control => return Some(None),
        KeyCode::Char(_) if control => return None,
        KeyCode::Char(letter) => Key::Char(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    }))
}
