//! Records as CSV with the column names of FOCUS, as the statement has them. Usage only: octroi has no prices, and a
//! billing period is the biller's, so those columns are not there.

use crate::{
    note::hex,
    sink::{
        Item,
        text::{direction, rfc3339},
    },
    statement::csv_field,
};

const COLUMNS: [&str; 20] = [
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ServiceCategory",
    "ServiceName",
    "SubAccountId",
    "ResourceId",
    "ResourceType",
    "x_Direction",
    "x_Zone",
    "x_Packets",
    "x_IpBytes",
    "x_Flags",
    "x_Host",
    "x_LedgerId",
    "x_Seq",
];

/// A line of names, and one for each item, of which each bills something.
pub(super) fn table(items: &[&Item]) -> String {
    let mut text = COLUMNS.join(",");
    text.push_str("\r\n");
    for item in items {
        let record = &item.record;
        let [packets, l2_bytes, l3_bytes] = item.billed().unwrap_or_default();
        let zone = match record.zone {
            Some(zone) => zone.to_string(),
            None => "*".to_owned(),
        };
        let (class, description) = match &record.correction {
            Some(correction) => ("Correction", correction.reason.clone()),
            None => (
                "",
                format!("Bytes {} the tenant, zone {zone}", direction(item)),
            ),
        };
        let fields = [
            rfc3339(record.window_start),
            rfc3339(record.window_end),
            "Usage".into(),
            class.into(),
            description,
            l2_bytes.to_string(),
            "Bytes".into(),
            "Networking".into(),
            "octroi".into(),
            record.tenant.to_string(),
            record.port_uid.clone(),
            "Port".into(),
            direction(item).into(),
            zone,
            packets.to_string(),
            l3_bytes.to_string(),
            record.flags.to_string(),
            record.host.clone(),
            hex(&record.ledger_id),
            item.seq.to_string(),
        ];
        let fields: Vec<String> = fields.iter().map(|text| csv_field(text)).collect();
        text.push_str(&fields.join(","));
        text.push_str("\r\n");
    }
    text
}
