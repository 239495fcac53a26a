//! Who looks at the flows that are in the table now: entered in the ledger when the look begins, not at each refresh
//! (decisions 0043, 0053).

use super::{change, control::Refusal, state::State};
use crate::live::Subject;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};

/// A look that nobody goes on with for so long is over: a screen that is paused longer begins a new one.
const OVER: Duration = Duration::from_secs(600);
/// Looks at once; the one that was gone on with the longest ago ends for another.
const LOOKS_MAX: usize = 64;

/// A name in an entry is not longer, bytes.
const NAME_BYTES_MAX: usize = 64;

/// Looks that are in the ledger and go on.
#[derive(Debug, Default)]
pub(super) struct Looks(BTreeMap<u64, (Subject, String, Instant)>);

impl Looks {
    /// Is this look in the ledger? It goes on then.
    fn goes_on(&mut self, look: u64, who: &str, subject: &Subject, now: Instant) -> bool {
        self.0
            .retain(|_, (_, _, last)| now.saturating_duration_since(*last) < OVER);
        match self.0.get_mut(&look) {
            Some((of, by, last)) if of == subject && by == who => {
                *last = now;
                true
            }
            _ => false,
        }
    }

    /// It has just been entered.
    fn begin(&mut self, look: u64, who: &str, subject: &Subject, now: Instant) {
        if self.0.len() >= LOOKS_MAX {
            let longest = self.0.iter().min_by_key(|(_, (_, _, last))| *last);
            let longest = longest.map(|(look, _)| *look);
            longest.and_then(|look| self.0.remove(&look));
        }
        self.0.insert(look, (subject.clone(), who.to_owned(), now));
    }
}

/// Tells the flows of a tenant, after the look is in the ledger.
///
/// # Errors
/// When it cannot be entered, or the table not be read: nothing is shown then.
pub(super) async fn flows(
    state: &Rc<RefCell<State>>,
    who: &str,
    subject: &Subject,
    look: u64,
) -> Result<String, Refusal> {
    if let Some(port) = &subject.port
        && (port.len() > NAME_BYTES_MAX || port.chars().any(char::is_control))
    {
        return Err(Refusal::config("this is no name of a port"));
    }
    let goes_on = {
        let mut state = state.borrow_mut();
        state.looks().goes_on(look, who, subject, Instant::now())
    };
    let look = if goes_on {
        look
    } else {
        let ledger = state.borrow().ledger();
        let entered = change::enter(ledger, who, subject.what()).await;
        entered.map_err(|_| {
            Refusal::system(
                "flows are shown to nobody whose look cannot be entered in the ledger; `octroi status` says what is wrong with it",
            )
        })?;
        let new = number()?;
        let mut state = state.borrow_mut();
        state.looks().begin(new, who, subject, Instant::now());
        new
    };
    let seen = state.borrow_mut().live_flows(subject)?;
    let seen = crate::live::Seen { look, ..seen };
    Ok(serde_json::to_string(&seen).map_err(anyhow::Error::from)?)
}

/// A number that nobody guesses: with it a look goes on without another entry. Not 0, which stands for a new one.
fn number() -> Result<u64, Refusal> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Refusal::system(format!("random numbers: {error}")))?;
    Ok(u64::from_ne_bytes(bytes) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tenant: u32) -> Subject {
        Subject { tenant, port: None }
    }

    #[test]
    fn a_look_goes_on_for_whom_and_at_what_it_began() {
        let begun = Instant::now();
        let mut looks = Looks::default();
        looks.begin(7, "uid 0", &of(1), begun);
        let later = |seconds| begun + Duration::from_secs(seconds);
        assert!(looks.goes_on(7, "uid 0", &of(1), later(599)));
        assert!(
            !looks.goes_on(7, "uid 0", &of(2), later(600)),
            "another tenant"
        );
        assert!(
            !looks.goes_on(7, "uid 1", &of(1), later(600)),
            "somebody else"
        );
        assert!(!looks.goes_on(0, "uid 0", &of(1), later(600)), "a new one");
        assert!(looks.goes_on(7, "uid 0", &of(1), later(1_198)));
        assert!(
            !looks.goes_on(7, "uid 0", &of(1), later(1_798)),
            "it is over"
        );
    }

    #[test]
    fn there_are_so_many_looks_and_no_more() {
        let begun = Instant::now();
        let mut looks = Looks::default();
        for look in 0..1_000 {
            looks.begin(look, "uid 0", &of(1), begun + Duration::from_millis(look));
        }
        assert_eq!(looks.0.len(), LOOKS_MAX);
        assert!(looks.goes_on(999, "uid 0", &of(1), begun + Duration::from_secs(2)));
        assert!(!looks.goes_on(1, "uid 0", &of(1), begun + Duration::from_secs(2)));
    }
}
