//! Messages about ceilings, bursts and packet rates.

use super::limit;

#[test]
fn a_rate_has_a_number_and_a_unit() {
    limit(
        r##"
> ceiling = ""
c.toml:12:27: there is nothing in the quotes; write a rate such as 200Mbit/s
> ceiling = "200"
c.toml:12:27: `200` has no unit; write a rate such as 200Mbit/s
> ceiling = "fast"
c.toml:12:27: `fast` does not start with a number; write a rate such as 200Mbit/s
> ceiling = "-5Mbit/s"
c.toml:12:27: `-5Mbit/s` is negative; write a rate such as 200Mbit/s
> ceiling = ".5Gbit/s"
c.toml:12:27: `.5Gbit/s` does not start with a number; write a rate such as 200Mbit/s
> ceiling = "1.Gbit/s"
c.toml:12:27: `1.Gbit/s` has no digit after the point; write a rate such as 200Mbit/s
> ceiling = "1,5Gbit/s"
c.toml:12:27: `1,5Gbit/s` has a comma: 1.5 is a fraction; write a rate such as 200Mbit/s
> ceiling = "1e3bit/s"
c.toml:12:27: `1e3bit/s` has the unit `e3bit/s`, which is none for a rate; write 1bit/s, or kbit/s, Mbit/s, Gbit/s or Tbit/s
> ceiling = "5 Mbit/s x"
c.toml:12:27: `5 Mbit/s x` has the unit `Mbit/s x`, which is none for a rate; write 5bit/s, or kbit/s, Mbit/s, Gbit/s or Tbit/s
> ceiling = "10kpps"
c.toml:12:27: `10kpps` has the unit `kpps`, which is none for a rate; write 10bit/s, or kbit/s, Mbit/s, Gbit/s or Tbit/s
> ceiling = 200
c.toml:12:27: `ceiling` is an integer; write ceiling = "200Mbit/s"
"##,
    );
}

#[test]
fn a_rate_in_bytes_is_told_its_bits() {
    limit(
        r##"
> ceiling = "1MB/s"
c.toml:12:27: `1MB/s` counts bytes, and a rate counts bits; write 8Mbit/s for 1MB/s
> ceiling = "2.5MBps"
c.toml:12:27: `2.5MBps` counts bytes, and a rate counts bits; write 20Mbit/s for 2.5MB/s
> ceiling = "1MiB/s"
c.toml:12:27: `1MiB/s` counts bytes, and a rate counts bits; write 8388.608kbit/s for 1048.576kB/s
> ceiling = "3bytes/s"
c.toml:12:27: `3bytes/s` counts bytes, and a rate counts bits; write 24bit/s for 3B/s
"##,
    );
}

#[test]
fn a_rate_that_may_be_bits_or_bytes_is_told_both() {
    limit(
        r##"
> ceiling = "1Mbps"
c.toml:12:27: `1Mbps` can mean bits or bytes; write 1Mbit/s, or 8Mbit/s for 1MB/s
> ceiling = "100mbps"
c.toml:12:27: `100mbps` can mean bits or bytes; write 100Mbit/s, or 800Mbit/s for 100MB/s
> ceiling = "1.5Gbps"
c.toml:12:27: `1.5Gbps` can mean bits or bytes; write 1.5Gbit/s, or 12Gbit/s for 1.5GB/s
"##,
    );
}

#[test]
fn a_rate_spelt_in_another_way_is_told_how() {
    limit(
        r##"
> ceiling = "100mbit"
c.toml:12:27: `100mbit` has the unit `mbit`, which is none for a rate; write 100Mbit/s
> ceiling = "100Mbits/s"
c.toml:12:27: `100Mbits/s` has the unit `Mbits/s`, which is none for a rate; write 100Mbit/s
> ceiling = "10Kbit/s"
c.toml:12:27: `10Kbit/s` has the unit `Kbit/s`, which is none for a rate; write 10kbit/s
> ceiling = "1Gb/s"
c.toml:12:27: `1Gb/s` has the unit `Gb/s`, which is none for a rate; write 1Gbit/s
> ceiling = "1Mibit/s"
c.toml:12:27: `1Mibit/s` has the unit `Mibit/s`, which is none for a rate; write 1048.576kbit/s
"##,
    );
}

#[test]
fn a_rate_is_whole_and_fits() {
    limit(
        r##"
> ceiling = "1.5555kbit/s"
c.toml:12:27: `1.5555kbit/s` is no whole number of bits per second; write fewer digits after the point
> ceiling = "0.5bit/s"
c.toml:12:27: `0.5bit/s` is no whole number of bits per second; write fewer digits after the point
> ceiling = "99999999999Gbit/s"
c.toml:12:27: `99999999999Gbit/s` is more than any link carries; write less
> ceiling = "9999999999999999999Gbit/s"
c.toml:12:27: `9999999999999999999Gbit/s` has too many digits; write a rate such as 200Mbit/s
"##,
    );
}

#[test]
fn a_ceiling_is_between_1_kbit_and_400_gbit() {
    limit(
        r##"
> ceiling = "0bit/s"
c.toml:12:27: port `vm` from_tenant: the ceiling is 0bit/s; write at least 1kbit/s, or leave it out for no ceiling
> ceiling = "999bit/s"
c.toml:12:27: port `vm` from_tenant: the ceiling is 999bit/s; write at least 1kbit/s, or leave it out for no ceiling
> ceiling = "400.000000001Gbit/s"
c.toml:12:27: port `vm` from_tenant: the ceiling is 400000000.001kbit/s; write at most 400Gbit/s, or leave it out for no ceiling
> ceiling = "1Tbit/s"
c.toml:12:27: port `vm` from_tenant: the ceiling is 1Tbit/s; write at most 400Gbit/s, or leave it out for no ceiling
"##,
    );
}

#[test]
fn a_packet_rate_has_a_number_and_a_unit() {
    limit(
        r##"
> packet_rate = "10"
c.toml:12:31: `10` has no unit; write a packet rate such as 10kpps
> packet_rate = "10Kpps"
c.toml:12:31: `10Kpps` has the unit `Kpps`, which is none for a packet rate; write 10kpps
> packet_rate = "10 packets/s"
c.toml:12:31: `10 packets/s` has the unit `packets/s`, which is none for a packet rate; write 10pps
> packet_rate = "10Mbit/s"
c.toml:12:31: `10Mbit/s` has the unit `Mbit/s`, which is none for a packet rate; write 10pps, or kpps, Mpps or Gpps
> packet_rate = "0.5pps"
c.toml:12:31: `0.5pps` is no whole number of packets per second; write fewer digits after the point
"##,
    );
}

#[test]
fn a_packet_rate_is_between_1_pps_and_1_gpps() {
    limit(
        r##"
> packet_rate = "0pps"
c.toml:12:31: port `vm` from_tenant: the packet rate is 0pps; write at least 1pps, or leave it out for no limit
> packet_rate = "2Gpps"
c.toml:12:31: port `vm` from_tenant: the packet rate is 2Gpps; write at most 1Gpps, or leave it out for no limit
"##,
    );
}

#[test]
fn a_burst_is_a_size_or_a_time() {
    limit(
        r##"
> ceiling = "8Mbit/s", burst = "6"
c.toml:12:46: `6` has no unit; write a size such as 625kB or a time such as 250ms
> ceiling = "8Mbit/s", burst = "10KB"
c.toml:12:46: `10KB` can mean 1,000 or 1,024 bytes each; write 10kB or 10KiB
> ceiling = "8Mbit/s", burst = "10mB"
c.toml:12:46: `10mB` has the unit `mB`, which is none for a burst; write 10MB
> ceiling = "8Mbit/s", burst = "10Mbit"
c.toml:12:46: `10Mbit` counts bits, and a size counts bytes; write 1.25MB
> ceiling = "8Mbit/s", burst = "5mb"
c.toml:12:46: `5mb` counts bits, and a size counts bytes; write 625kB
> ceiling = "8Mbit/s", burst = "5min"
c.toml:12:46: `5min` has the unit `min`, which is none for a burst; write a size such as 625kB or 1MiB, or a time such as 250ms
> ceiling = "8Mbit/s", burst = "1.5B"
c.toml:12:46: `1.5B` is no whole number of bytes; write fewer digits after the point
> ceiling = "8Mbit/s", burst = "0.1ns"
c.toml:12:46: `0.1ns` is no whole number of nanoseconds; write fewer digits after the point
> ceiling = "8Mbit/s", burst = "9999999999999s"
c.toml:12:46: `9999999999999s` is more than any link carries; write less
"##,
    );
}

#[test]
fn a_burst_holds_a_frame_and_at_most_10_s() {
    limit(
        r##"
> ceiling = "8Mbit/s", burst = "0B"
c.toml:12:46: port `vm` from_tenant: the burst is 0B; write at least 1514B, one full frame
> ceiling = "8Mbit/s", burst = "1513B"
c.toml:12:46: port `vm` from_tenant: the burst is 1.513kB; write at least 1514B, one full frame
> ceiling = "8Mbit/s", burst = "1us"
c.toml:12:46: port `vm` from_tenant: the burst at 8Mbit/s is 1B; write at least 1514B, one full frame
> ceiling = "8Mbit/s", burst = "100MB"
c.toml:12:46: port `vm` from_tenant: the burst is 100MB; write at most 10MB, 10s of the ceiling 8Mbit/s
> ceiling = "8Mbit/s", burst = "10000001B"
c.toml:12:46: port `vm` from_tenant: the burst is 10000.001kB; write at most 10MB, 10s of the ceiling 8Mbit/s
> ceiling = "8Mbit/s", burst = "11s"
c.toml:12:46: port `vm` from_tenant: the burst at 8Mbit/s is 11MB; write at most 10MB, 10s of the ceiling 8Mbit/s
> ceiling = "1kbit/s", burst = "1515B"
c.toml:12:46: port `vm` from_tenant: the burst is 1.515kB; write 1514B, as the ceiling is 1kbit/s
> ceiling = "1kbit/s", burst = "10s"
c.toml:12:46: port `vm` from_tenant: the burst at 1kbit/s is 1.25kB; write at least 1514B, one full frame
"##,
    );
}

#[test]
fn a_burst_needs_a_ceiling() {
    limit(
        r##"
> burst = "6MB"
c.toml:12:25: port `vm` from_tenant: a burst needs a ceiling; write ceiling = "200Mbit/s" beside it
> burst = "10ms", packet_rate = "1pps"
c.toml:12:25: port `vm` from_tenant: a burst needs a ceiling; write ceiling = "200Mbit/s" beside it
"##,
    );
}

#[test]
fn a_bad_ceiling_is_one_error_though_a_burst_depends_on_it() {
    limit(
        r##"
> ceiling = "x", burst = "1ms"
c.toml:12:27: `x` does not start with a number; write a rate such as 200Mbit/s
> ceiling = "1bit/s", burst = "1ms"
c.toml:12:27: port `vm` from_tenant: the ceiling is 1bit/s; write at least 1kbit/s, or leave it out for no ceiling
"##,
    );
}
