//! The process that measures one build: `set ROW` and `run PACKETS` come on its standard input, an answer goes back for each.

use crate::{Ceiling, Ports, Rig, cases, frame};
use anyhow::{Context as _, Result, bail};
use dataplane::object;
use std::io::{BufRead as _, Write as _};

/// Places of the flow table, where ports keep flows.
const PLACES: u32 = 65_536;

/// What is run when it is this process's turn.
struct Ready {
    program: &'static str,
    frame: Vec<u8>,
    /// The conversation is put back before each packet: what that costs is taken off.
    again: bool,
}

struct Worker<'a> {
    elf: &'a [u8],
    rig: Option<(u32, Rig)>,
    ready: Option<Ready>,
}

/// Answers until nobody asks any more. `elf`: the programs to be measured; `None`: this build's.
///
/// # Errors
/// When standard input or output is gone.
pub fn serve(elf: Option<&[u8]>) -> Result<()> {
    let mut worker = Worker {
        elf: elf.unwrap_or(object::OBJECT),
        rig: None,
        ready: None,
    };
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let answer = match worker.answer(&line?) {
            Ok(answer) => answer,
            Err(error) => format!("error {error:#}").replace('\n', " "),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

/// This thread's own time, ns.
fn own_ns() -> u64 {
    dataplane::host::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

impl Worker<'_> {
    fn answer(&mut self, line: &str) -> Result<String> {
        match line.split_once(' ') {
            Some(("set", row)) => self.set(row).map(|()| "ready".into()),
            Some(("run", batch)) => Ok(self.run(batch.parse()?)?.to_string()),
            _ => bail!("{line:?} is neither `set ROW` nor `run PACKETS`"),
        }
    }

    /// The rig with so many places for flows, loaded where there is another.
    fn rig(&mut self, places: u32) -> Result<&mut Rig> {
        if self.rig.as_ref().is_none_or(|(is, _)| *is != places) {
            self.rig = None;
            self.rig = Some((places, Rig::of(self.elf, places)?));
        }
        let (_, rig) = self.rig.as_mut().context("no rig")?;
        Ok(rig)
    }

    fn set(&mut self, row: &str) -> Result<()> {
        let words: Vec<&str> = row.split('/').collect();
        let ready = match words.as_slice() {
            ["empty"] => {
                self.rig(0)?;
                Ready {
                    program: "empty",
                    frame: frame(true),
                    again: false,
                }
            }
            [kind @ ("gate" | "metered"), direction, limit, spread] => {
                self.gate(*kind == "metered", direction, limit, spread)?
            }
            ["encryption", protocol, case] => self.policed(&format!("{protocol}/{case}"), true)?,
            ["encryption", protocol, case, "plain"] => {
                self.policed(&format!("{protocol}/{case}"), false)?
            }
            _ => bail!("there is no row {row}"),
        };
        self.ready = Some(ready);
        Ok(())
    }

    fn gate(&mut self, metered: bool, direction: &str, limit: &str, spread: &str) -> Result<Ready> {
        let rig = self.rig(if metered { PLACES } else { 0 })?;
        rig.police(None)?;
        rig.set(match limit {
            "below" => Ceiling::Below,
            _ => Ceiling::None,
        })?;
        rig.draw(match spread {
            "zipf" => Ports::Zipf,
            _ => Ports::Hot,
        })?;
        let from_tenant = direction == "from_tenant";
        Ok(Ready {
            program: if from_tenant {
                "bench_from_tenant"
            } else {
                "bench_to_tenant"
            },
            frame: frame(from_tenant),
            again: false,
        })
    }

    fn policed(&mut self, name: &str, policy: bool) -> Result<Ready> {
        let case = cases().into_iter().find(|case| case.name == name);
        let case = case.with_context(|| format!("there is no case {name}"))?;
        let rig = self.rig(PLACES)?;
        rig.police(None)?;
        rig.set(Ceiling::None)?;
        rig.draw(Ports::Hot)?;
        if policy {
            case.set(rig)?;
        }
        Ok(Ready {
            program: match (policy, case.packet.from_tenant) {
                (true, _) => case.program(),
                (false, true) => "bench_from_tenant",
                (false, false) => "bench_to_tenant",
            },
            frame: case.packet.frame,
            again: policy && case.again,
        })
    }

    /// ns a packet.
    fn run(&mut self, batch: u32) -> Result<f64> {
        let ready = self.ready.as_ref().context("nothing is set")?;
        let (_, rig) = self.rig.as_mut().context("no rig")?;
        let mut time = |program| {
            let begun = own_ns();
            rig.run(program, &ready.frame, batch)?;
            anyhow::Ok((own_ns() - begun) as f64 / f64::from(batch.max(1)))
        };
        let whole = time(ready.program)?;
        if !ready.again {
            return Ok(whole);
        }
        Ok(whole - (time("bench_again")? - time("empty")?))
    }
}
