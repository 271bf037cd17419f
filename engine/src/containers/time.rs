//! Moments as they are written down.

use jiff::Timestamp;

/// RFC 3339 in UTC, with nine digits after the point.
pub(super) fn now() -> String {
    format(Timestamp::now())
}

pub(super) fn format(moment: Timestamp) -> String {
    format!("{moment:.9}")
}
