//! What there is to be scraped.

/// Every family: its name, type, and what it says.
pub const FAMILIES: [(&str, &str, &str); 34] = [
    (
        "octroi_up",
        "gauge",
        "1: a daemon answers. 0: the kernel enforces and counts on, and nobody cuts windows",
    ),
    (
        "octroi_clock_synchronised",
        "gauge",
        "1: the kernel says that its clock is synchronised",
    ),
    (
        "octroi_clock_max_error_seconds",
        "gauge",
        "largest error of the clock, as the kernel says",
    ),
    (
        "octroi_policy_revision",
        "gauge",
        "policy revision in force",
    ),
    (
        "octroi_ports",
        "gauge",
        "ports by state: blessed, waiting, retired",
    ),
    (
        "octroi_delivered_packets_total",
        "counter",
        "frames delivered, by tenant and direction, of ports that are there",
    ),
    (
        "octroi_delivered_bytes_total",
        "counter",
        "layer-2 bytes delivered, likewise",
    ),
    (
        "octroi_dropped_packets_total",
        "counter",
        "frames dropped, by tenant, direction and reason, likewise",
    ),
    (
        "octroi_dropped_bytes_total",
        "counter",
        "layer-2 bytes dropped, likewise",
    ),
    (
        "octroi_queue_dropped_packets_total",
        "counter",
        "billed, and then dropped by the queue that shapes",
    ),
    (
        "octroi_ecn_packets_total",
        "counter",
        "frames delivered over a queue, by tenant, direction, and whether they could be marked, of ports that are there",
    ),
    (
        "octroi_uplink_xdp",
        "gauge",
        "1: floods end at this uplink before an skb exists; 0: the driver has no native XDP; absent: not asked for",
    ),
    (
        "octroi_quota_bytes",
        "gauge",
        "budget of a tenant in its period, layer-2 bytes",
    ),
    (
        "octroi_quota_spent_bytes",
        "gauge",
        "what was had of what it counts in this period",
    ),
    (
        "octroi_quota_left_bytes",
        "gauge",
        "what is left of it; 0: the slower rate, or drops",
    ),
    ("octroi_meter_up", "gauge", "1: the daemon keeps records"),
    (
        "octroi_meter_error",
        "gauge",
        "1: the last window could not be committed; counting goes on",
    ),
    ("octroi_window_seconds", "gauge", "length of a window"),
    (
        "octroi_windows_total",
        "counter",
        "windows that this daemon committed",
    ),
    (
        "octroi_last_window_timestamp_seconds",
        "gauge",
        "when a window was last committed",
    ),
    ("octroi_ledger_records", "gauge", "records in the ledger"),
    (
        "octroi_ledgers_superseded_total",
        "counter",
        "ledgers that this daemon could not continue",
    ),
    (
        "octroi_unmetered_total",
        "counter",
        "directions and windows in which an interface carried what was not counted",
    ),
    (
        "octroi_interfaces_not_audited",
        "gauge",
        "interfaces of ports whose own counters are not known",
    ),
    (
        "octroi_unattributed_bytes_total",
        "counter",
        "layer-2 bytes that no flow accounts for: billed all the same",
    ),
    (
        "octroi_sink_up",
        "gauge",
        "1: the sink answered when it was last asked",
    ),
    (
        "octroi_sink_lag_records",
        "gauge",
        "records that the ledgers have and the sink has not; absent: not known",
    ),
    (
        "octroi_sink_confirmed_records",
        "gauge",
        "records of the ledger of now below which the sink has everything",
    ),
    (
        "octroi_sink_delivered_records_total",
        "counter",
        "records that the sink took from this daemon",
    ),
    (
        "octroi_sink_lost_rows_total",
        "counter",
        "rows of flow detail that a collector was not sent, because they were gone first; absent: a sink that loses none",
    ),
    (
        "octroi_sink_next_try_seconds",
        "gauge",
        "until the sink is asked again",
    ),
    (
        "octroi_sink_error",
        "gauge",
        "1: something is wrong with the sink, or a ledger at it",
    ),
    ("octroi_sink_fork", "gauge", "1: two records have one name"),
    (
        "octroi_sink_last_error_info",
        "gauge",
        "what is wrong, as a label; absent: nothing",
    ),
];
