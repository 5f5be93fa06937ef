//! Calendar arithmetic on UTC instants given as microseconds since 1970-01-01.

pub const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;
/// Julian date of 1970-01-01T00:00 UTC.
const JULIAN_DATE_OF_EPOCH: f64 = 2_440_587.5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    pub year: i32,
    /// 1..=12
    pub month: u32,
    /// 1..=31
    pub day: u32,
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar (Hinnant, "chrono-compatible date algorithms").
pub fn days_from_date(date: Date) -> i64 {
    let year = i64::from(date.year) - i64::from(date.month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (i64::from(date.month) + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(date.day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Inverse of [`days_from_date`].
pub fn date_from_days(days: i64) -> Date {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = (if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    }) as u32;
    let year = (year_of_era + era * 400 + i64::from(month <= 2)) as i32;
    Date { year, month, day }
}

/// The UTC date of an instant and the hour of the day, 0 <= hour < 24.
pub fn date_and_hour(time_us: i64) -> (Date, f64) {
    let date = date_from_days(time_us.div_euclid(MICROSECONDS_PER_DAY));
    let hour = time_us.rem_euclid(MICROSECONDS_PER_DAY) as f64 / 3.6e9;
    (date, hour)
}

/// Julian date of an instant, days.
pub fn julian_date(time_us: i64) -> f64 {
    let days = time_us.div_euclid(MICROSECONDS_PER_DAY) as f64;
    let fraction = time_us.rem_euclid(MICROSECONDS_PER_DAY) as f64 / MICROSECONDS_PER_DAY as f64;
    (days + JULIAN_DATE_OF_EPOCH) + fraction
}

/// The year and the elapsed fraction of it.
pub fn decimal_year(time_us: i64) -> f64 {
    let (date, hour) = date_and_hour(time_us);
    let first_day_of = |year| {
        days_from_date(Date {
            year,
            month: 1,
            day: 1,
        })
    };
    let (start, end) = (first_day_of(date.year), first_day_of(date.year + 1));
    let elapsed_days = (days_from_date(date) - start) as f64 + hour / 24.0;
    f64::from(date.year) + elapsed_days / (end - start) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_round_trip_and_follow_each_other() {
        let mut previous = date_from_days(-80_001);
        for days in -80_000..80_000 {
            let date = date_from_days(days);
            assert_eq!(days_from_date(date), days);
            assert!(
                (date.year, date.month, date.day) > (previous.year, previous.month, previous.day)
            );
            previous = date;
        }
    }

    #[test]
    fn known_instants() {
        // 2000-01-01T12:00 UTC is Julian date 2451545.0 (J2000).
        let j2000_us = 946_728_000_000_000;
        assert_eq!(julian_date(j2000_us), 2_451_545.0);
        assert_eq!(
            date_and_hour(j2000_us),
            (
                Date {
                    year: 2000,
                    month: 1,
                    day: 1
                },
                12.0
            )
        );
        let leap_day = days_from_date(Date {
            year: 2024,
            month: 2,
            day: 29,
        });
        assert_eq!(
            date_from_days(leap_day + 1),
            Date {
                year: 2024,
                month: 3,
                day: 1
            }
        );
        assert_eq!(
            date_and_hour(-1),
            (
                Date {
                    year: 1969,
                    month: 12,
                    day: 31
                },
                86_399.999_999 / 3600.0
            )
        );
    }
}
