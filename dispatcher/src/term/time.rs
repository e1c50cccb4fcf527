//! Times and amounts as text: RFC 3339 UTC with milliseconds, durations and money for people.
//!
//! Pure: the clock is an argument. Not here: durations as settings spell them (the library's `settings`).

/// `2026-01-31T12:00:00.000Z` from milliseconds since 1970.
pub(crate) fn rfc3339(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (hour, minute, second, milli) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Year, month and day of a count of days since 1970: Howard Hinnant's `civil_from_days`, for days after 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Milliseconds since 1970 of a date (`2027-01-31`, its first instant) or a time in UTC (`2027-01-31T12:00:00Z`).
pub(crate) fn parse_rfc3339(text: &str) -> Option<u64> {
    let number = |text: &str, digits: usize| -> Option<u64> {
        (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let mut parts = date.splitn(3, '-');
    let (year, month, day) = (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let mut parts = time.splitn(3, ':');
    let (hour, minute) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let (second, _) = parts.next().map(|rest| rest.split_once('.').unwrap_or((rest, "")))?;
    let second = number(second, 2)?;
    let days = days(year, month, day)?;
    (hour < 24 && minute < 60 && second < 60).then_some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

/// Days since 1970 of a date that exists: Howard Hinnant's `days_from_civil`, for days after 1970.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted = if month > 2 { month.checked_sub(3)? } else { month + 9 };
    let from_march = if month > 2 { year } else { year.checked_sub(1)? };
    let (era, year_of_era) = (from_march / 400, from_march % 400);
    let day_of_year = (153 * shifted + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    (civil(days) == (year, month, day)).then_some(days)
}

/// `950ms`, `12s`, `3m05s`, `2h07m`, `4d03h`.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Dollars for people: `$0.0123`, `$12.34`.
pub(crate) fn dollars(microusd: u64) -> String {
    let dollars = usd(microusd);
    if microusd > 0 && dollars < 1.0 { format!("${dollars:.4}") } else { format!("${dollars:.2}") }
}

/// Decimal US dollars for JSON.
pub(crate) fn usd(microusd: u64) -> f64 {
    // Exact up to nine billion dollars.
    microusd as f64 / 1_000_000.0
}

/// This machine's clock in milliseconds since 1970: for ages that people read, never for Redis.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
            (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
            assert_eq!(parse_rfc3339(text), Some(ms / 1000 * 1000), "{text}");
        }
        assert_eq!(parse_rfc3339("2025-01-01"), Some(1_735_689_600_000));
        for text in [
            "",
            "2025",
            "2025-02-30",
            "2025-00-01",
            "2025-13-01",
            "1969-12-31",
            "2025-01-01T24:00:00Z",
            "2025-01-01T00:00:00",
            "+025-01-01",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn spans_and_money_are_short() {
        for (ms, text) in
            [(950, "950ms"), (12_345, "12s"), (185_000, "3m05s"), (7_620_000, "2h07m"), (356_400_000, "4d03h")]
        {
            assert_eq!(span(ms), text);
        }
        assert_eq!((dollars(12_300), dollars(12_340_000)), ("$0.0123".into(), "$12.34".into()));
        assert_eq!(serde_json::json!(usd(123)).to_string(), "0.000123");
    }
}
