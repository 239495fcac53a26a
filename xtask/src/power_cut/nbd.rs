//! Serves a [`Disk`] to one QEMU over NBD, as far as QEMU asks for it.
//!
//! The protocol is `doc/proto.md` of github.com/NetworkBlockDevice/nbd: fixed newstyle, simple replies,
//! read, write and flush. Requests are done one after the other.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixListener;

use super::disk::{Disk, SECTOR};

const MAGIC: u64 = 0x4E42_444D_4147_4943;
const OPTION: u64 = 0x4948_4156_454F_5054;
const OPTION_REPLY: u64 = 0x0003_E889_0455_65A9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

/// NBD_FLAG_FIXED_NEWSTYLE, NBD_FLAG_NO_ZEROES.
const HANDSHAKE_FLAGS: u16 = 3;
/// NBD_FLAG_HAS_FLAGS, NBD_FLAG_SEND_FLUSH.
const EXPORT_FLAGS: u16 = 5;

const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = (1 << 31) + 1;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

const EINVAL: u32 = 22;
const EIO: u32 = 5;

/// No request is longer, bytes.
const LENGTH_MAX: u32 = 64 << 20;

/// Waits for QEMU, serves it until it is gone, and gives the disk back with whatever is in its cache.
pub fn serve(listener: &UnixListener, mut disk: Disk) -> io::Result<Disk> {
    let (mut stream, _) = listener.accept()?;
    match session(&mut stream, &mut disk) {
        // A process that is killed takes no leave.
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ) =>
        {
            Err(error)
        }
        _ => Ok(disk),
    }
}

fn session(stream: &mut (impl Read + Write), disk: &mut Disk) -> io::Result<()> {
    stream.write_all(&MAGIC.to_be_bytes())?;
    stream.write_all(&OPTION.to_be_bytes())?;
    stream.write_all(&HANDSHAKE_FLAGS.to_be_bytes())?;
    // The flags that the client knows.
    array::<4>(stream)?;
    while !option(stream, disk)? {}
    while disk.is_on() && request(stream, disk)? {}
    Ok(())
}

fn array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn bytes(stream: &mut impl Read, length: u32) -> io::Result<Vec<u8>> {
    if length > LENGTH_MAX {
        return Err(io::Error::other("NBD: too long a request"));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// True: the options are settled, and the disk is used.
fn option(stream: &mut (impl Read + Write), disk: &Disk) -> io::Result<bool> {
    if u64::from_be_bytes(array(stream)?) != OPTION {
        return Err(io::Error::other("NBD: no option"));
    }
    let option = u32::from_be_bytes(array(stream)?);
    let length = u32::from_be_bytes(array(stream)?);
    bytes(stream, length)?;
    let mut reply = |kind: u32, data: &[u8]| {
        let mut message = OPTION_REPLY.to_be_bytes().to_vec();
        message.extend(option.to_be_bytes());
        message.extend(kind.to_be_bytes());
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(data);
        stream.write_all(&message)
    };
    match option {
        OPTION_GO => {
            // NBD_INFO_EXPORT is number 0.
            let mut export = vec![0, 0];
            export.extend(disk.bytes().to_be_bytes());
            export.extend(EXPORT_FLAGS.to_be_bytes());
            reply(REPLY_INFO, &export)?;
            reply(REPLY_ACK, &[])?;
            Ok(true)
        }
        OPTION_ABORT => Err(ErrorKind::UnexpectedEof.into()),
        _ => reply(REPLY_UNSUPPORTED, &[]).map(|()| false),
    }
}

/// False: the client took its leave.
fn request(stream: &mut (impl Read + Write), disk: &mut Disk) -> io::Result<bool> {
    if u32::from_be_bytes(array(stream)?) != REQUEST {
        return Err(io::Error::other("NBD: no request"));
    }
    let [_, _, kind @ ..]: [u8; 4] = array(stream)?;
    let kind = u16::from_be_bytes(kind);
    let cookie: [u8; 8] = array(stream)?;
    let offset = u64::from_be_bytes(array(stream)?);
    let length = u32::from_be_bytes(array(stream)?);
    let data = match kind {
        WRITE => bytes(stream, length)?,
        READ => vec![0; length.min(LENGTH_MAX) as usize],
        DISCONNECT => return Ok(false),
        _ => Vec::new(),
    };
    let sector = SECTOR as u64;
    let whole = offset % sector == 0 && u64::from(length) % sector == 0;
    let inside = offset
        .checked_add(length.into())
        .is_some_and(|end| end <= disk.bytes());
    let mut answer = data;
    let done = match kind {
        READ if whole && inside => disk.read(offset, &mut answer),
        WRITE if whole && inside => disk.write(offset, &answer),
        FLUSH => disk.flush(),
        _ => Err(ErrorKind::InvalidInput.into()),
    };
    let error = match done {
        Ok(()) => 0,
        Err(error) if error.kind() == ErrorKind::InvalidInput => EINVAL,
        Err(_) => EIO,
    };
    if kind != READ || error != 0 {
        answer.clear();
    }
    let mut message = REPLY.to_be_bytes().to_vec();
    message.extend(error.to_be_bytes());
    message.extend(cookie);
    message.extend(answer);
    stream.write_all(&message)?;
    Ok(true)
}
