//! A laboratory: network namespaces, links, counters and real traffic, for the demo, the tests and
//! the benches. Everything it makes carries the name of the process and goes when it goes.

pub mod ends;
pub mod frames;
pub mod namespace;
pub mod site;
pub mod tap;
pub mod traffic;

pub use namespace::{Namespace, command};
pub use site::{Site, TenantSpec};
