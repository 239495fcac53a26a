//! The configuration as a TOML text.
//!
//! What is written is what would be read: every key, also those that have their default, so that a
//! later default changes nothing. Comments of a file that was read are not kept.

use std::fmt::{Display, Write as _};

use super::encryption::Encryption;
use super::model::{Config, Host, Limits, Port, Uplink, Zone};
use super::own_profile::OwnProfile;
use super::quota;
use super::share;
use super::sink::Written;

/// See [`Config::to_toml`].
pub(super) fn to_toml(config: &Config) -> String {
    let mut out = Out(String::new());
    host(&mut out, &config.host);
    if let Some(meter) = &config.meter {
        out.line("\n[meter]");
        out.key("ledger", text(meter.ledger.display()));
        out.key("window", text(time(meter.window_ns)));
        out.key("tenant_flows_max", meter.tenant_flows_max);
        out.key("flow_idle", text(time(meter.flow_idle_ns)));
        out.key("flow_active", text(time(meter.flow_active_ns)));
    }
    let kept = config.retention;
    out.line("\n[retention]");
    out.key("flows", text(days(kept.flows_days)));
    out.key("records", text(days(kept.records_days)));
    out.key("rollups", text(days(kept.rollups_days)));
    out.line("\n[billing]");
    out.key("timezone", text(&config.billing.timezone));
    if let Some(api) = &config.api {
        out.line("\n[api]");
        out.key("socket", text(api.socket.display()));
        if let Some(page) = api.page {
            out.key("page", text(page));
        }
        if let Some(tls) = &api.tls {
            out.key("listen", text(tls.listen));
            out.key("certificate", text(tls.certificate.display()));
            out.key("key", text(tls.key.display()));
            out.key("client_ca", text(tls.client_ca.display()));
        }
        out.key("read", texts(&api.read));
        out.key("policy", texts(&api.policy));
    }
    if let Some(metrics) = &config.metrics {
        out.line("\n[metrics]");
        out.key("listen", text(metrics.listen));
        out.key("users", texts(&metrics.users));
    }
    for sink in &config.sinks {
        out.line("\n[[sink]]");
        out.key("name", text(&sink.name));
        out.key("kind", text(sink.target.kind()));
        out.written(sink.keys());
    }
    for item in &config.uplinks {
        uplink(&mut out, item);
    }
    for item in &config.zones {
        zone(&mut out, item);
    }
    for tenant in &config.tenants {
        out.line("\n[[tenant]]");
        out.key("name", text(&tenant.name));
        out.key("id", tenant.id.0);
        out.key("flow_detail", text(tenant.flow_detail.as_str()));
        out.key("charge_class", text(tenant.charge_class.as_str()));
        out.key("charge_changes", texts(&tenant.charge_changes));
        if let Some(uplink) = &tenant.uplink {
            out.key("uplink", text(uplink));
        }
        for (key, share) in ["from_tenant", "to_tenant"].iter().zip(&tenant.shares) {
            let keys = share::keys(share);
            if !keys.is_empty() {
                out.key(key, format!("{{ {} }}", keys.join(", ")));
            }
        }
        if let Some(quota) = &tenant.quota {
            out.key("quota", quota::written(quota));
        }
    }
    for item in &config.ports {
        port(&mut out, item);
    }
    for item in &config.provide {
        out.line("\n[[provide]]");
        out.written(item.lines());
        for peer in &item.peers {
            out.line("\n[[provide.peers]]");
            out.written(peer.lines());
        }
    }
    for item in &config.encryption_profiles {
        profile(&mut out, item);
    }
    for item in &config.encryption {
        encryption(&mut out, item);
    }
    out.0
}

/// The text as it grows.
struct Out(String);

impl Out {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn key(&mut self, key: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn written(&mut self, lines: Vec<(&'static str, Written)>) {
        for (key, value) in lines {
            match value {
                Written::Text(value) => self.key(key, text(value)),
                Written::Texts(values) => self.key(key, texts(&values)),
                Written::Number(value) => self.key(key, value),
                Written::Boolean(value) => self.key(key, value),
            }
        }
    }
}

/// A TOML string.
fn text(value: impl Display) -> String {
    toml::Value::String(value.to_string()).to_string()
}

/// A time in the largest unit that says it exactly.
fn time(nanos: u64) -> String {
    match nanos {
        _ if nanos.is_multiple_of(1_000_000_000) => format!("{}s", nanos / 1_000_000_000),
        _ if nanos.is_multiple_of(1_000_000) => format!("{}ms", nanos / 1_000_000),
        _ => format!("{nanos}ns"),
    }
}

fn days(days: u32) -> String {
    format!("{days}d")
}

/// A TOML list of strings, each on its line if there are several.
fn texts<T: Display>(values: &[T]) -> String {
    match values {
        [] => "[]".to_string(),
        [value] => format!("[{}]", text(value)),
        _ => {
            let lines = values.iter().map(|value| format!("    {},\n", text(value)));
            format!("[\n{}]", lines.collect::<String>())
        }
    }
}

fn profile(out: &mut Out, profile: &OwnProfile) {
    out.line("\n[[encryption_profile]]");
    out.key("name", text(&profile.name));
    out.key("based_on", text(profile.based_on.as_str()));
    out.key("protocols", texts(&profile.protocols));
    out.key("tls_min", text(profile.tls_min.as_str()));
    out.key("suites", texts(&profile.suites));
    out.key("groups", texts(&profile.groups));
    out.key("group_required", profile.group_required);
    out.key("early_data", profile.early_data);
    out.key("overlays", text(profile.overlays.as_str()));
    out.key("unverified_bytes", profile.unverified_bytes);
    out.key("unclassified_bytes", profile.unclassified_bytes);
    out.key("unclassified_packets", profile.unclassified_packets);
}

fn encryption(out: &mut Out, rule: &Encryption) {
    out.line("\n[[encryption]]");
    out.key("tenant", text(&rule.tenant));
    out.key("direction", text(rule.direction.as_str()));
    out.key("zones", texts(&rule.zones));
    out.key("mode", text(rule.mode.as_str()));
    out.key("profile", text(rule.profile.as_str()));
    out.key("min_evidence", text(rule.min_evidence.as_str()));
    out.key("midstream", text(rule.midstream.as_str()));
    out.key("fragments", text(rule.fragments.as_str()));
    out.key("unverified_bytes", rule.unverified_bytes);
    out.key("unclassified_bytes", rule.unclassified_bytes);
    out.key("unclassified_packets", rule.unclassified_packets);
    out.key("starttls_ports", texts(&rule.starttls_ports));
    out.key("starttls_bytes", rule.starttls_bytes);
    out.key("exempt", texts(&rule.exempt));
    out.key("conversations", rule.conversations);
}

fn host(out: &mut Out, host: &Host) {
    out.line("[host]");
    out.key("name", text(&host.name));
    out.key("pin_dir", text(host.pin_dir.display()));
    out.key("run_dir", text(host.run_dir.display()));
    out.key("trusted_interfaces", texts(&host.trusted_interfaces));
    out.key("shape", text(host.shape.as_str()));
    out.key("packet_price_bytes", host.packet_price_bytes);
    out.key("ports_max", host.ports_max);
    out.key("zones_max", host.zones_max);
    out.key("flows_max", host.flows_max);
    out.key("conversations_max", host.conversations_max);
}

fn uplink(out: &mut Out, uplink: &Uplink) {
    out.line("\n[[uplink]]");
    out.key("interface", text(&uplink.interface));
    if let Some(capacity) = uplink.capacity {
        out.key("capacity", text(capacity));
    }
    out.key("overhead_bytes", uplink.overhead_bytes);
    out.key("xdp", uplink.xdp);
    out.key("clear_overlays", text(uplink.clear_overlays.as_str()));
}

fn zone(out: &mut Out, zone: &Zone) {
    out.line("\n[[zone]]");
    out.key("name", text(&zone.name));
    out.key("id", zone.id);
    out.key("cidrs", texts(&zone.cidrs));
}

fn port(out: &mut Out, port: &Port) {
    out.line("\n[[port]]");
    out.key("name", text(&port.name));
    out.key("tenant", text(&port.tenant));
    out.key("interface", text(&port.interface));
    if let Some(vlan) = port.vlan {
        out.key("vlan", vlan);
    }
    out.key("macs", texts(&port.macs));
    out.key("addresses", texts(&port.addresses));
    limits(out, "from_tenant", &port.from_tenant);
    limits(out, "to_tenant", &port.to_tenant);
}

fn limits(out: &mut Out, key: &str, limits: &Limits) {
    let ceiling = limits
        .ceiling
        .map(|rate| format!("ceiling = {}", text(rate)));
    let burst = limits.burst.map(|bytes| format!("burst = {}", text(bytes)));
    let packet_rate = limits
        .packet_rate
        .map(|rate| format!("packet_rate = {}", text(rate)));
    let keys: Vec<String> = [ceiling, burst, packet_rate]
        .into_iter()
        .flatten()
        .collect();
    if !keys.is_empty() {
        out.key(key, format!("{{ {} }}", keys.join(", ")));
    }
}
