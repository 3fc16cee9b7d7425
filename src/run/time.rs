//! Dates for file names and manifests, and lengths of time for people.

use humantime::format_rfc3339_seconds;
use std::time::SystemTime;

/// `2026-11-21`, in UTC.
pub fn date(time: SystemTime) -> String {
    rfc3339(time).chars().take(10).collect()
}

/// RFC 3339 in UTC, to the second: `2026-11-21T05:08:00Z`.
pub fn rfc3339(time: SystemTime) -> String {
    format_rfc3339_seconds(time).to_string()
}

/// Seconds as people write them: `0.42 s`, `12 s`, `2:05`, `1:02:05`.
pub fn human_seconds(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() || s < 0.0 => "?".to_owned(),
        s if s < 9.95 => format!("{s:.2} s"),
        s if s < 99.5 => format!("{s:.0} s"),
        s => {
            let s = s.round() as u64;
            match s / 3600 {
                0 => format!("{}:{:02}", s / 60, s % 60),
                hours => format!("{hours}:{:02}:{:02}", s / 60 % 60, s % 60),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn dates_follow_the_calendar() {
        // seconds and dates as `date -u -d @SECONDS` prints them
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_237_680, "2026-11-21T05:08:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), want);
        }
        assert_eq!(date(UNIX_EPOCH + Duration::from_secs(1_735_689_599)), "2024-12-31");
    }

    #[test]
    fn lengths_of_time_are_readable() {
        let shown = [0.0, 0.424, 9.96, 61.2, 99.6, 125.0, 3725.4, f64::NAN].map(human_seconds);
        assert_eq!(shown, ["0.00 s", "0.42 s", "10 s", "61 s", "1:40", "2:05", "1:02:05", "?"]);
    }
}
