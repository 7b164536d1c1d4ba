//! Instants for people and for names, in UTC: what a crash kernel has no library for.

/// The last second of the year 9999. No clock is past it; a dead kernel's bytes may say so.
const END: u64 = 253_402_300_799;

/// `20261122T124310Z`, of seconds since 1970.
pub fn compact(seconds: u64) -> String {
    let [year, month, day, hour, minute, second] = fields(seconds);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// What [`compact`] wrote; `None` of anything else, a day that no calendar has included.
pub fn parse_compact(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('Z')?;
    let (date, clock) = digits.split_once('T')?;
    if date.len() != 8 || clock.len() != 6 || !(date.bytes().chain(clock.bytes())).all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let number = |text: &str, from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(date, 0, 4)?, number(date, 4, 6)?, number(date, 6, 8)?);
    let seconds = number(clock, 0, 2)? * 3600 + number(clock, 2, 4)? * 60 + number(clock, 4, 6)?;
    let time = days(year, month, day)?.checked_mul(86_400)?.checked_add(seconds)?;
    (compact(time) == text).then_some(time)
}

/// Days from 1970-01-01 to this one, by guessing and going on from there; [`civil`] has the calendar.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let guess = year.checked_sub(1970)? * 365 + month.checked_sub(1)? * 28;
    // Leap days of 8029 years, and what months have over 28 days.
    (guess..guess + 2500).find(|days| civil(*days) == (year, month, day))
}

/// `2026-11-22 12:43:10 UTC`, of seconds since 1970.
pub fn readable(seconds: u64) -> String {
    let [year, month, day, hour, minute, second] = fields(seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

fn fields(seconds: u64) -> [u64; 6] {
    const DAY: u64 = 86_400;
    let seconds = seconds.min(END);
    let (year, month, day) = civil(seconds / DAY);
    let clock = seconds % DAY;
    [year, month, day, clock / 3600, clock / 60 % 60, clock % 60]
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years are counted from
/// March, so that the leap day is the last of its year, within eras of 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let since_march_0 = days + 719_468;
    let (era, day_of_era) = (since_march_0 / ERA, since_march_0 % ERA);
    let leap_days_before = day_of_era / 1460 + day_of_era / 146_096 - day_of_era / 36_524;
    let year_of_era = (day_of_era - leap_days_before) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        // Each checked with `date -u -d @N +%Y%m%dT%H%M%SZ`.
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (86_399, "19700101T235959Z"),
            (68_169_599, "19720228T235959Z"),
            (68_169_600, "19720229T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_800, "20000301T000000Z"),
            (978_307_199, "20001231T235959Z"),
            (1_709_164_799, "20240228T235959Z"),
            (1_709_251_200, "20240301T000000Z"),
            (1_795_351_390, "20261122T124310Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
            (253_402_300_799, "99991231T235959Z"),
            (u64::MAX, "99991231T235959Z"),
        ] {
            assert_eq!(compact(seconds), text, "{seconds}");
            assert_eq!(parse_compact(text), Some(seconds.min(END)), "{text}");
        }
    }

    #[test]
    fn what_is_no_instant() {
        for text in [
            "",
            "20260230T000000Z",
            "20260101T240000Z",
            "20260101T006000Z",
            "20260101T000000",
            "19691231T235959Z",
        ] {
            assert_eq!(parse_compact(text), None, "{text}");
        }
    }

    #[test]
    fn days_follow_each_other() {
        let length = |year: u64, month| match month {
            2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = (1970, 1, 1);
        for days in 0..400 * 366 {
            assert_eq!(civil(days), expected, "day {days}");
            let (y, m, d) = expected;
            expected = match (m, d) {
                (12, 31) => (y + 1, 1, 1),
                (m, d) if d == length(y, m) => (y, m + 1, 1),
                (m, d) => (y, m, d + 1),
            };
        }
    }

    #[test]
    fn both_forms_tell_the_same() {
        assert_eq!(compact(1_795_351_390), "20261122T124310Z");
        assert_eq!(readable(1_795_351_390), "2026-11-22 12:43:10 UTC");
    }
}
