//! Where the sun stands, and the solar zenith angle that drives the E layer.

use crate::calendar::julian_date;

/// Julian date of J2000.0.
const J2000_DAYS: f64 = 2_451_545.0;
const DAYS_PER_CENTURY: f64 = 36_525.0;
/// Zenith angle at the day-night transition, degrees (Nava et al. 2008, NeQuick 2).
const TRANSITION_ZENITH_DEG: f64 = 86.232_927_962_116_15;
/// Sharpness of the day-night transition, per degree (Nava et al. 2008).
const TRANSITION_SHARPNESS: f64 = 12.0;
/// Exponents beyond this are cut, as in NeQuick's `fexp`.
pub const EXPONENT_LIMIT: f64 = 80.0;

/// Geographic point under the sun.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SubsolarPoint {
    pub latitude_deg: f64,
    /// -180..180
    pub longitude_deg: f64,
}

/// The subsolar point at a UTC instant (low-precision series of Vallado, "Fundamentals of Astrodynamics", alg. 29; 0.01 deg).
pub fn subsolar_point(time_us: i64) -> SubsolarPoint {
    let t = (julian_date(time_us) - J2000_DAYS) / DAYS_PER_CENTURY;
    let mean_longitude_deg = (280.460 + 36_000.771 * t).rem_euclid(360.0);
    let mean_anomaly = (357.527_723 + 35_999.050_34 * t)
        .rem_euclid(360.0)
        .to_radians();
    let ecliptic_longitude = (mean_longitude_deg
        + 1.914_666_471 * mean_anomaly.sin()
        + 0.019_994_64 * (2.0 * mean_anomaly).sin())
    .to_radians();
    let obliquity = (23.439_291 - 0.013_004_2 * t).to_radians();
    let declination = (obliquity.sin() * ecliptic_longitude.sin()).asin();
    let right_ascension_deg = (obliquity.cos() * ecliptic_longitude.sin())
        .atan2(ecliptic_longitude.cos())
        .to_degrees();
    let sidereal_s =
        67_310.548_41 + (876_600.0 * 3_600.0 + 8_640_184.812_866) * t + 0.931_04 * t * t
            - 6.2e-6 * t * t * t;
    let sidereal_deg = sidereal_s.rem_euclid(86_400.0) / 240.0;
    let longitude_deg = (right_ascension_deg - sidereal_deg + 180.0).rem_euclid(360.0) - 180.0;
    SubsolarPoint {
        latitude_deg: declination.to_degrees(),
        longitude_deg,
    }
}

/// Solar zenith angle, degrees, 0..180.
pub fn zenith_angle_deg(sun: SubsolarPoint, latitude_deg: f64, longitude_deg: f64) -> f64 {
    let (sin_declination, cos_declination) = sun.latitude_deg.to_radians().sin_cos();
    let (sin_lat, cos_lat) = latitude_deg.to_radians().sin_cos();
    let hour_angle = (sun.longitude_deg - longitude_deg).to_radians();
    let cosine = sin_declination * sin_lat + cos_declination * cos_lat * hour_angle.cos();
    cosine.clamp(-1.0, 1.0).acos().to_degrees()
}

/// The zenith angle that replaces the true one in the formula of foE: equal by day, just below 90 degrees by night,
/// joined smoothly (Nava et al. 2008, "A new version of the NeQuick ionosphere electron density model").
pub fn effective_zenith_angle_deg(zenith_angle_deg: f64) -> f64 {
    let night = 90.0 - 0.24 * clipped_exp(20.0 - 0.2 * zenith_angle_deg);
    let weight = clipped_exp(TRANSITION_SHARPNESS * (zenith_angle_deg - TRANSITION_ZENITH_DEG));
    (night * weight + zenith_angle_deg) / (weight + 1.0)
}

pub fn clipped_exp(exponent: f64) -> f64 {
    exponent.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::{Date, MICROSECONDS_PER_DAY, days_from_date};

    fn at(year: i32, month: u32, day: u32, hour: f64) -> i64 {
        days_from_date(Date { year, month, day }) * MICROSECONDS_PER_DAY + (hour * 3.6e9) as i64
    }

    #[test]
    fn seasons_and_equation_of_time() {
        // 2022: equinox 20 March 15:33, solstice 21 June 09:14 UTC (US Naval Observatory).
        assert!(subsolar_point(at(2022, 3, 20, 15.55)).latitude_deg.abs() < 0.01);
        assert!((subsolar_point(at(2022, 6, 21, 9.23)).latitude_deg - 23.438).abs() < 0.005);
        // On 3 November the sun is 16.4 minutes early: 4.1 degrees west of the mean sun at noon.
        assert!((subsolar_point(at(2022, 11, 3, 12.0)).longitude_deg + 4.11).abs() < 0.05);
    }

    #[test]
    fn zenith_angle_at_subsolar_point_antipode_and_pole() {
        let sun = subsolar_point(at(2024, 5, 5, 7.3));
        assert!(zenith_angle_deg(sun, sun.latitude_deg, sun.longitude_deg) < 1e-5);
        assert!(
            (zenith_angle_deg(sun, -sun.latitude_deg, sun.longitude_deg + 180.0) - 180.0).abs()
                < 1e-5
        );
        for longitude in [0.0, 90.0, 270.0] {
            assert!(
                (zenith_angle_deg(sun, 90.0, longitude) - (90.0 - sun.latitude_deg)).abs() < 1e-12
            );
        }
    }

    #[test]
    fn effective_angle_is_true_by_day_and_below_the_horizon_never() {
        assert!((effective_zenith_angle_deg(40.0) - 40.0).abs() < 1e-12);
        let mut zenith = 0.0;
        while zenith <= 180.0 {
            let effective = effective_zenith_angle_deg(zenith);
            assert!((-1e-12..=90.0).contains(&effective), "{zenith} {effective}");
            zenith += 0.1;
        }
    }
}
