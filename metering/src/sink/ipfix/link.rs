//! The way to a collector.

use super::target::{Scheme, Target};
use crate::sink::{SinkError, trust};
use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use std::{
    fmt::Display,
    io::{self, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket},
    sync::Arc,
    time::Duration,
};

/// A datagram's payload, bytes: with its headers it goes through every IPv6 link (1,280 bytes, RFC 8200 §5) in one piece. RFC 7011
/// §10.3.3 asks for less than the path's MTU, and for 512 where that is not known; it is known to be at least this.
const DATAGRAM_BYTES_MAX: usize = 1_232;
/// Over a connection, bytes: what is in memory at once.
const MESSAGE_BYTES_MAX: usize = 16_384;
/// So many datagrams, and then a pause: collectors of Debian have some 200 KiB of buffer, and whoever fills it faster than
/// they read loses. Some 100,000 flows a second.
const BURST: u32 = 8;
const PAUSE: Duration = Duration::from_millis(1);

/// A way that is open.
enum Way {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// The socket, and the datagrams of this burst.
    Udp(UdpSocket, u32),
}

/// A collector that is there, as far as can be said.
pub(super) struct Link {
    url: String,
    way: Way,
}

impl Link {
    pub fn open(target: &Target, patience: Duration) -> Result<Self, SinkError> {
        let url = target.url.clone();
        let away = |error: &dyn Display| SinkError::Unavailable(format!("{url}: {error}"));
        let (scheme, host, port) = target.address().map_err(SinkError::Refused)?;
        let found = (host.as_str(), port).to_socket_addrs();
        let addresses: Vec<SocketAddr> = found.map_err(|error| away(&error))?.collect();
        let way = match scheme {
            Scheme::Udp => Way::Udp(udp(&addresses).map_err(|error| away(&error))?, 0),
            Scheme::Tcp => Way::Tcp(tcp(&addresses, patience).map_err(|error| away(&error))?),
            Scheme::Tls => {
                let ca_file = target
                    .ca_file
                    .as_deref()
                    .unwrap_or(std::path::Path::new(""));
                let config = Arc::new(trust::tls(ca_file)?);
                let refused = |error: &dyn Display| SinkError::Refused(format!("{url}: {error}"));
                let name = ServerName::try_from(host.clone()).map_err(|error| refused(&error))?;
                let tls = ClientConnection::new(config, name).map_err(|error| refused(&error))?;
                let mut stream = tcp(&addresses, patience).map_err(|error| away(&error))?;
                let mut tls = Box::new(StreamOwned::new(
                    tls,
                    stream.try_clone().map_err(|error| away(&error))?,
                ));
                // Nothing leaves before the collector is known to be who it should be.
                while tls.conn.is_handshaking() {
                    tls.conn
                        .complete_io(&mut stream)
                        .map_err(|error| away(&error))?;
                }
                Way::Tls(tls)
            }
        };
        Ok(Self { url, way })
    }

    /// Nobody says what of it arrives.
    pub fn is_lossy(&self) -> bool {
        matches!(self.way, Way::Udp(..))
    }

    /// The longest message, bytes.
    pub fn bytes_max(&self) -> usize {
        if self.is_lossy() {
            DATAGRAM_BYTES_MAX
        } else {
            MESSAGE_BYTES_MAX
        }
    }

    /// Whether the other end has not said that it is gone. A collector says nothing else, but for what TLS says by itself.
    pub fn is_alive(&mut self) -> bool {
        let would_block = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        match &mut self.way {
            Way::Udp(..) => true,
            Way::Tcp(stream) => {
                let mut byte = [0];
                let looked = stream
                    .set_nonblocking(true)
                    .and_then(|()| stream.peek(&mut byte));
                let is_open = match looked {
                    Ok(bytes) => bytes != 0,
                    Err(error) => would_block(&error),
                };
                stream.set_nonblocking(false).is_ok() && is_open
            }
            Way::Tls(stream) => {
                if stream.sock.set_nonblocking(true).is_err() {
                    return false;
                }
                let is_open = loop {
                    match stream.conn.read_tls(&mut stream.sock) {
                        Ok(0) => break false,
                        Ok(_) => match stream.conn.process_new_packets() {
                            Ok(state) if state.peer_has_closed() => break false,
                            Ok(_) => {}
                            Err(_) => break false,
                        },
                        Err(error) => break would_block(&error),
                    }
                };
                stream.sock.set_nonblocking(false).is_ok() && is_open
            }
        }
    }

    pub fn send(&mut self, message: &[u8]) -> Result<(), SinkError> {
        let sent = match &mut self.way {
            Way::Tcp(stream) => stream.write_all(message),
            Way::Tls(stream) => stream.write_all(message).and_then(|()| stream.flush()),
            Way::Udp(socket, burst) => {
                *burst += 1;
                if *burst % BURST == 0 {
                    std::thread::sleep(PAUSE);
                }
                // An error here is of a datagram before: nobody listens.
                socket.send(message).map(drop)
            }
        };
        sent.map_err(|error| SinkError::Unavailable(format!("{}: {error}", self.url)))
    }
}

/// The first address that answers.
fn tcp(addresses: &[SocketAddr], patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(address, patience) {
            Ok(stream) => {
                stream.set_write_timeout(Some(patience))?;
                stream.set_read_timeout(Some(patience))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn udp(addresses: &[SocketAddr]) -> io::Result<UdpSocket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let made = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(address)?;
            Ok(socket)
        });
        match made {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}
