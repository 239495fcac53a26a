//! A way from a host's namespace to a server outside, which loses what is on it now and then.

use anyhow::Result;
use octroi::lab::namespace::Namespace;
use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

/// Connections that were broken on all ways of a test.
pub type Broken = Arc<AtomicU64>;

/// Opens a way: the same port on 127.0.0.1, there and here. `seed`: connections break after so many bytes, whichever way
/// they go; 0: they do not.
pub fn open(from: &Namespace, port: u16, seed: u64, broken: &Broken) -> Result<()> {
    // The last message of a ledger is read whole: it must come through now and then.
    narrow(from, port, seed, 13, broken)
}

/// The same, where the least that a connection carries is so many bytes, as a power of 2.
pub fn narrow(from: &Namespace, port: u16, seed: u64, least: u32, broken: &Broken) -> Result<()> {
    let listener = from.run(|| TcpListener::bind(("127.0.0.1", port)))??;
    carry_all(listener, port, seed, least, broken);
    Ok(())
}

/// The same from a port of its own in this namespace; returns it.
pub fn beside(port: u16, seed: u64, broken: &Broken) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let own = listener.local_addr()?.port();
    carry_all(listener, port, seed, 13, broken);
    Ok(own)
}

fn carry_all(listener: TcpListener, port: u16, seed: u64, least: u32, broken: &Broken) {
    let (broken, mut random) = (broken.clone(), seed);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let left = match seed {
                0 => u64::MAX,
                // From the least to 32 times as much.
                _ => 1 << (u64::from(least) + random % 6),
            };
            let left = Arc::new(AtomicU64::new(left));
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            for (from, to) in [
                (client.try_clone(), server.try_clone()),
                (server.try_clone(), client.try_clone()),
            ] {
                if let (Ok(from), Ok(to)) = (from, to) {
                    let (left, broken) = (left.clone(), broken.clone());
                    thread::spawn(move || carry(from, to, &left, &broken));
                }
            }
        }
    });
}

fn carry(mut from: TcpStream, mut to: TcpStream, left: &AtomicU64, broken: &AtomicU64) {
    let mut buffer = [0; 16_384];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let before = left.fetch_update(Relaxed, Relaxed, |left| {
            Some(if left == u64::MAX {
                left
            } else {
                left.saturating_sub(length as u64)
            })
        });
        if before.unwrap_or_default() <= length as u64 {
            if before != Ok(0) {
                broken.fetch_add(1, Relaxed);
            }
            break;
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
