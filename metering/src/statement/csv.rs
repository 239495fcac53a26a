//! The statement as CSV, with the column names of FOCUS (FinOps Open Cost and Usage Specification). Usage
//! only: octroi has no prices, so the columns of costs are not there. Columns that FOCUS does not know begin
//! with `x_`, as it asks.

use super::Statement;

const COLUMNS: [&str; 21] = [
    "BillingPeriodStart",
    "BillingPeriodEnd",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ChargeCategory",
    "ChargeDescription",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ServiceCategory",
    "ServiceName",
    "SubAccountId",
    "SubAccountName",
    "ResourceId",
    "ResourceType",
    "x_Direction",
    "x_Zone",
    "x_ZoneName",
    "x_Packets",
    "x_IpBytes",
    "x_ChargeClass",
    "x_Statement",
];

/// RFC 4180, and no cell that a spreadsheet takes for a formula.
pub(crate) fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '@', '\t', '\r'])
        || (text.starts_with('-') && text.len() > 1 && text.parse::<i128>().is_err());
    let text = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

/// The statement as CSV: a row for each day, port, direction and zone.
#[must_use]
pub fn to_csv(statement: &Statement) -> String {
    let mut text = COLUMNS.join(",");
    text.push_str("\r\n");
    let subject = &statement.subject;
    let issue = statement.issue.as_ref();
    let issue = issue.map_or_else(
        || "PROVISIONAL".to_owned(),
        |issue| format!("{} version {}", issue.number, issue.version),
    );
    for cell in &statement.cells {
        let day = statement.days.get(cell.day).cloned().unwrap_or_default();
        let mut zones = statement.zones.iter();
        let zone = zones.find(|line| line.of == cell.zone);
        let fields = [
            subject.from.clone(),
            subject.to.clone(),
            day.from,
            day.to,
            "Usage".into(),
            format!("Bytes {} the tenant, zone {}", cell.direction, cell.zone),
            cell.amount.l2_bytes.0.to_string(),
            "Bytes".into(),
            "Networking".into(),
            "octroi".into(),
            subject.tenant.to_string(),
            subject.tenant_name.clone(),
            cell.port.clone(),
            "Port".into(),
            cell.direction.into(),
            cell.zone.clone(),
            zone.map_or_else(String::new, |zone| zone.name.clone()),
            cell.amount.packets.0.to_string(),
            cell.amount.l3_bytes.0.to_string(),
            day.charge_class,
            issue.clone(),
        ];
        let fields: Vec<String> = fields.iter().map(|text| field(text)).collect();
        text.push_str(&fields.join(","));
        text.push_str("\r\n");
    }
    text
}
