//! The repository's chores: `cargo xtask setup | demo | test | bench | vm | power-cut | accept | captures | deb | fleet`.

mod accept;
mod bench;
mod captures;
mod deb;
mod demo;
mod fleet;
mod host;
mod power_cut;
mod sbom;
mod setup;
mod sinks;
mod tally;
mod test;
mod vm;

use std::process::ExitCode;

use clap::Parser;

use setup::Need;

/// The chores of octroi's repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Xtask {
    /// Install what builds and tests need: Debian packages, bpf-linker, cargo-deny.
    Setup,
    Demo(demo::Demo),
    Test(test::Test),
    Bench(bench::Bench),
    Vm(vm::Vm),
    PowerCut(power_cut::PowerCut),
    Accept(accept::Accept),
    Captures(captures::Captures),
    Deb(deb::Deb),
    Fleet(fleet::Fleet),
}

fn main() -> ExitCode {
    let result = match Xtask::parse() {
        Xtask::Setup => setup::run(Need::All).map(|()| ExitCode::SUCCESS),
        Xtask::Demo(demo) => demo.run(),
        Xtask::Test(test) => test.run(),
        Xtask::Bench(bench) => bench.run(),
        Xtask::Vm(vm) => vm.run(),
        Xtask::PowerCut(power_cut) => power_cut.run(),
        Xtask::Accept(accept) => accept.run(),
        Xtask::Captures(captures) => captures.run(),
        Xtask::Deb(deb) => deb.run(),
        Xtask::Fleet(fleet) => fleet.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: error: {error:#}");
        ExitCode::FAILURE
    })
}
