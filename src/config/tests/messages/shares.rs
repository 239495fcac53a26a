//! Messages about guarantees, weights and the uplink that they are parts of.

use super::host;

#[test]
fn a_share_is_within_what_there_is() {
    host(
        r##"
> [[uplink]]
> interface = "eth0"
> capacity = "1Gbit/s"
> [[tenant]]
> name = "acme"
> id = 17
> from_tenant = { guarantee = "700Mbit/s" }
> [[tenant]]
> name = "globex"
> id = 18
> from_tenant = { guarantee = "500Mbit/s" }
c.toml:13:29: the guarantees of 2 tenants from_tenant are 1.2Gbit/s together, and the capacity of `eth0` is 1Gbit/s; guarantee 200Mbit/s less
> [[uplink]]
> interface = "eth0"
> capacity = "1Gbit/s"
> [[tenant]]
> name = "acme"
> id = 17
> from_tenant = { guarantee = "200Mbit/s", ceiling = "100Mbit/s" }
> to_tenant = { weight = 0 }
c.toml:9:29: tenant `acme` from_tenant: the guarantee 200Mbit/s is above the ceiling 100Mbit/s; write at most that
c.toml:10:24: `weight` is 0; write 1 to 10000
> [[uplink]]
> interface = "eth0"
> [[tenant]]
> name = "acme"
> id = 17
> from_tenant = { ceiling = "100Mbit/s", burst = "100B" }
> to_tenant = { burst = "6MB" }
c.toml:8:48: tenant `acme` from_tenant: the burst is 100B; write at least 1514B, one full frame
c.toml:9:23: tenant `acme` to_tenant: a burst needs a ceiling; write ceiling = "200Mbit/s" beside it
> [[uplink]]
> interface = "eth0"
> [[tenant]]
> name = "acme"
> id = 17
> from_tenant = { guarantee = "100bit/s", weight = 10001, cieling = "1Gbit/s" }
c.toml:8:29: tenant `acme` from_tenant: the guarantee is 100bit/s; write at least 1kbit/s, or leave it out for none
c.toml:8:50: `weight` is 10001; write 1 to 10000
c.toml:8:57: unknown key `cieling` in `from_tenant`; did you mean `ceiling`? The keys are guarantee, weight, ceiling, burst
"##,
    );
}

#[test]
fn a_share_is_of_a_known_uplink() {
    host(
        r##"
> [[tenant]]
> name = "acme"
> id = 17
> from_tenant = { weight = 3 }
c.toml:3:1: tenant `acme`: there is no link to have a part of; add an [[uplink]]
> [[uplink]]
> interface = "eth0"
> [[uplink]]
> interface = "eth1"
> [[tenant]]
> name = "acme"
> id = 17
> to_tenant = { guarantee = "1Gbit/s" }
c.toml:7:1: tenant `acme`: there are several uplinks; write uplink = "…" to say which one it shares
> [[uplink]]
> interface = "eth0"
> [[tenant]]
> name = "acme"
> id = 17
> uplink = "eth1"
c.toml:8:10: tenant `acme`: `eth1` is no [[uplink]]; add it
"##,
    );
}
