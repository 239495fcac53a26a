//! A network namespace of a test's own, without a name: it goes with the thread that made it, even
//! when the process is killed.

use anyhow::{Context as _, Result, bail};
use dataplane::netlink;
use octroi::lab::{command as run, site};

/// Runs `work` on a thread in a new network namespace.
pub fn alone<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread moves.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                bail!("unshare: {}", std::io::Error::last_os_error());
            }
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a command, which inherits this thread's namespace.
pub fn command(line: &str) -> Result<()> {
    run(line).map(drop)
}

/// Index of an interface of this thread's namespace.
pub fn index(name: &str) -> Result<u32> {
    Ok(netlink::interfaces()?
        .get(name)
        .with_context(|| format!("no interface {name}"))?
        .index)
}

/// Makes a veth pair `name` and `name`x, both up, silent, and for frames of any length.
pub fn veth(name: &str) -> Result<u32> {
    let peer = format!("{name}x");
    command(&format!(
        "ip link add {name} mtu 65535 type veth peer name {peer} mtu 65535"
    ))?;
    for end in [name, &peer] {
        // Nothing but the test's own frames: the kernel would solicit routers and join groups.
        let conf = format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6");
        std::fs::write(&conf, "1").with_context(|| conf)?;
        command(&format!("ip link set {end} up"))?;
    }
    index(name)
}

/// True where `test` can run; else says that it is skipped.
pub fn can_run(test: &str) -> bool {
    // A container may be root without being allowed to make a namespace.
    let possible = site::possible().and_then(|()| alone(|| Ok(())).map_err(|e| format!("{e:#}")));
    match possible {
        Ok(()) => true,
        Err(reason) => {
            println!("SKIPPED: {test}: {reason}");
            false
        }
    }
}
