//! Real spherical harmonics, 4-pi normalized with the Condon-Shortley phase, summed in blocks of points.
//!
//! Basis of degree l, order m: `P_lm(cos theta) cos(m phi)` for m >= 0 and `P_l|m| sin(|m| phi)` for m < 0, with
//! `P_lm` scaled by `sqrt((2 - delta_m0) (2l + 1) (l - m)! / (l + m)!)`, so that the mean square over the sphere is 1.
//! The three-term recurrence in degree is stable (Holmes & Featherstone 2002, J. Geodesy 76, eq. 11).

/// Points summed together; each runs the same operations in the same order wherever it stands in a block,
/// so a point's value does not depend on its neighbours.
pub const BLOCK: usize = 8;
pub type Lanes = [f64; BLOCK];
/// Largest degree of the recurrence's scratch space.
const MAX_DEGREE: usize = 31;

/// Coefficients of the recurrence up to a degree.
pub struct Legendre {
    degree: usize,
    /// By order m, then degree l = m..=degree: factors (a, b) of P_l = a (z P_{l-1} - b P_{l-2}).
    recurrence: Vec<(f64, f64)>,
    /// By order m: factor of P_mm / (sin(theta) P_{m-1,m-1}).
    sectoral: Vec<f64>,
}

/// Where the points of a block are on the sphere.
#[derive(Debug, Clone, Copy)]
pub struct Directions {
    /// Sine of the latitude.
    pub sin_lat: Lanes,
    /// Cosine of the latitude, >= 0.
    pub cos_lat: Lanes,
    pub cos_lon: Lanes,
    pub sin_lon: Lanes,
}

impl Directions {
    /// From latitudes and longitudes in degrees; short slices are padded with the origin.
    pub fn from_degrees(latitude_deg: &[f64], longitude_deg: &[f64]) -> Self {
        let mut directions = Directions {
            sin_lat: [0.0; BLOCK],
            cos_lat: [1.0; BLOCK],
            cos_lon: [1.0; BLOCK],
            sin_lon: [0.0; BLOCK],
        };
        for (lane, (latitude, longitude)) in latitude_deg
            .iter()
            .zip(longitude_deg)
            .take(BLOCK)
            .enumerate()
        {
            let (sin_lat, cos_lat) = latitude.to_radians().sin_cos();
            directions.sin_lat[lane] = sin_lat;
            // A synthesized latitude may pass 90 degrees by a hair: the colatitude's sine stays positive.
            directions.cos_lat[lane] = cos_lat.abs();
            (directions.sin_lon[lane], directions.cos_lon[lane]) = longitude.to_radians().sin_cos();
        }
        directions
    }
}

impl Legendre {
    /// `degree` at most 31.
    pub fn new(degree: usize) -> Self {
        assert!(degree <= MAX_DEGREE, "degree {degree} exceeds {MAX_DEGREE}");
        let mut recurrence = Vec::new();
        let mut sectoral = Vec::new();
        for m in 0..=degree {
            let order = m as f64;
            sectoral.push(match m {
                0 => 1.0,
                1 => -(3.0_f64.sqrt()),
                _ => -((2.0 * order + 1.0) / (2.0 * order)).sqrt(),
            });
            for l in m..=degree {
                let l = l as f64;
                let a = ((4.0 * l * l - 1.0) / (l * l - order * order)).sqrt();
                let b =
                    (((l - 1.0).powi(2) - order * order) / (4.0 * (l - 1.0).powi(2) - 1.0)).sqrt();
                // The first two degrees of an order do not reach back two degrees.
                recurrence.push(if l == order {
                    (0.0, 0.0)
                } else if l == order + 1.0 {
                    (a, 0.0)
                } else {
                    (a, b)
                });
            }
        }
        Legendre {
            degree,
            recurrence,
            sectoral,
        }
    }

    pub fn degree(&self) -> usize {
        self.degree
    }

    /// Values per field in a coefficient vector: a cosine and a sine part for each (l, m >= 0).
    pub fn terms(&self) -> usize {
        (self.degree + 1) * (self.degree + 2)
    }

    /// Index into a coefficient vector of `fields` fields: ordered by m, field, part (0 cosine, 1 sine), l.
    pub fn position(&self, fields: usize, field: usize, l: usize, m: usize, part: usize) -> usize {
        self.order_start(fields, m) + (field * 2 + part) * (self.degree + 1 - m) + (l - m)
    }

    /// Where order m begins in a coefficient vector of `fields` fields.
    pub fn order_start(&self, fields: usize, m: usize) -> usize {
        let pairs_below = m * (self.degree + 1) - (m * m - m) / 2;
        2 * fields * pairs_below
    }

    /// Sum the series of all fields at a block of points: `sums[field][lane]` is increased by the series' values.
    ///
    /// `coefficients` has `sums.len() * self.terms()` values in the order of [`Legendre::position`].
    pub fn add_series(&self, coefficients: &[f64], at: &Directions, sums: &mut [Lanes]) {
        let mut p = [[0.0; BLOCK]; MAX_DEGREE + 1];
        let mut sectoral: Lanes = [1.0; BLOCK];
        let mut cos_m: Lanes = [1.0; BLOCK];
        let mut sin_m: Lanes = [0.0; BLOCK];
        let mut rest = coefficients;
        let mut recurrence = self.recurrence.as_slice();
        for m in 0..=self.degree {
            let n_l = self.degree + 1 - m;
            if m > 0 {
                for lane in 0..BLOCK {
                    sectoral[lane] *= self.sectoral[m] * at.cos_lat[lane];
                    let cos_next = cos_m[lane] * at.cos_lon[lane] - sin_m[lane] * at.sin_lon[lane];
                    sin_m[lane] = sin_m[lane] * at.cos_lon[lane] + cos_m[lane] * at.sin_lon[lane];
                    cos_m[lane] = cos_next;
                }
            }
            let (factors, next) = recurrence.split_at(n_l);
            recurrence = next;
            p[0] = sectoral;
            let mut before: Lanes = [0.0; BLOCK];
            let mut last = sectoral;
            for (value, &(a, b)) in p[..n_l].iter_mut().zip(factors).skip(1) {
                for lane in 0..BLOCK {
                    value[lane] = a * (at.sin_lat[lane] * last[lane] - b * before[lane]);
                }
                before = last;
                last = *value;
            }
            for sum in sums.iter_mut() {
                let (cosine, after) = rest.split_at(n_l);
                let (sine, after) = after.split_at(n_l);
                rest = after;
                let mut cosine_sum: Lanes = [0.0; BLOCK];
                let mut sine_sum: Lanes = [0.0; BLOCK];
                for ((value, c), s) in p[..n_l].iter().zip(cosine).zip(sine) {
                    for lane in 0..BLOCK {
                        cosine_sum[lane] += c * value[lane];
                        sine_sum[lane] += s * value[lane];
                    }
                }
                for lane in 0..BLOCK {
                    sum[lane] += cosine_sum[lane] * cos_m[lane] + sine_sum[lane] * sin_m[lane];
                }
            }
        }
    }

    /// Reorder one field's coefficients from the index l (l + 1) + m, m in -l..=l, into a vector of `fields` fields.
    pub fn scatter(
        &self,
        degree_order: impl Fn(usize) -> f64,
        fields: usize,
        field: usize,
        into: &mut [f64],
    ) {
        for l in 0..=self.degree {
            let centre = l * (l + 1);
            for m in 0..=l {
                into[self.position(fields, field, l, m, 0)] = degree_order(centre + m);
                if m > 0 {
                    into[self.position(fields, field, l, m, 1)] = degree_order(centre - m);
                }
            }
        }
    }

    /// Turn the series of all fields about the pole, in place: afterwards its value at longitude `phi` is what it was
    /// at `phi - shift`.
    pub fn rotate(&self, coefficients: &mut [f64], fields: usize, shift_deg: f64) {
        for m in 1..=self.degree {
            let n_l = self.degree + 1 - m;
            let (sin_shift, cos_shift) = (m as f64 * shift_deg).to_radians().sin_cos();
            let order = &mut coefficients[self.order_start(fields, m)..][..2 * fields * n_l];
            for field in order.chunks_exact_mut(2 * n_l) {
                let (cosine, sine) = field.split_at_mut(n_l);
                for (c, s) in cosine.iter_mut().zip(sine) {
                    (*c, *s) = (
                        *c * cos_shift - *s * sin_shift,
                        *c * sin_shift + *s * cos_shift,
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All basis functions of a degree at one point, as (l, m, part, value).
    fn basis(
        legendre: &Legendre,
        latitude_deg: f64,
        longitude_deg: f64,
    ) -> Vec<(usize, usize, usize, f64)> {
        let at = Directions::from_degrees(&[latitude_deg], &[longitude_deg]);
        let mut values = Vec::new();
        for l in 0..=legendre.degree() {
            for m in 0..=l {
                for part in 0..=usize::from(m > 0) {
                    let mut coefficients = vec![0.0; legendre.terms()];
                    coefficients[legendre.position(1, 0, l, m, part)] = 1.0;
                    let mut sums = [[0.0; BLOCK]];
                    legendre.add_series(&coefficients, &at, &mut sums);
                    values.push((l, m, part, sums[0][0]));
                }
            }
        }
        values
    }

    #[test]
    fn addition_theorem_holds_at_every_degree_and_pole() {
        let legendre = Legendre::new(29);
        for (latitude, longitude) in [
            (0.0, 0.0),
            (41.3, -71.5),
            (-66.6, 179.9),
            (90.0, 12.0),
            (-90.0, 300.0),
            (89.99, 5.0),
        ] {
            let mut power = [0.0; 30];
            for (l, _, _, value) in basis(&legendre, latitude, longitude) {
                power[l] += value * value;
            }
            for (l, sum) in power.iter().enumerate() {
                let expected = 2.0 * l as f64 + 1.0;
                assert!(
                    (sum / expected - 1.0).abs() < 1e-12,
                    "degree {l} at {latitude} {longitude}: {sum}"
                );
            }
        }
    }

    #[test]
    fn functions_are_orthonormal_over_the_sphere() {
        let legendre = Legendre::new(6);
        // Exact for products of degree 12: 16 equispaced longitudes and 60,000 midpoints in sin(latitude) (error 1e-9).
        let (n_lat, n_lon) = (4_000, 16);
        let n_basis = 49;
        let mut gram = vec![0.0; n_basis * n_basis];
        for i in 0..n_lat {
            let z = -1.0 + (2.0 * i as f64 + 1.0) / n_lat as f64;
            for j in 0..n_lon {
                let longitude = 360.0 * j as f64 / n_lon as f64;
                let values = basis_of_degree_six(&legendre, z.asin().to_degrees(), longitude);
                for a in 0..n_basis {
                    for b in 0..n_basis {
                        gram[a * n_basis + b] += values[a] * values[b] / (n_lat * n_lon) as f64;
                    }
                }
            }
        }
        for a in 0..n_basis {
            for b in 0..n_basis {
                let expected = f64::from(u8::from(a == b));
                assert!(
                    (gram[a * n_basis + b] - expected).abs() < 1e-5,
                    "{a} {b}: {}",
                    gram[a * n_basis + b]
                );
            }
        }
    }

    fn basis_of_degree_six(legendre: &Legendre, latitude_deg: f64, longitude_deg: f64) -> Vec<f64> {
        let at = Directions::from_degrees(&[latitude_deg], &[longitude_deg]);
        let fields = 49;
        let mut coefficients = vec![0.0; fields * legendre.terms()];
        for field in 0..fields {
            legendre.scatter(
                |index| f64::from(u8::from(index == field)),
                fields,
                field,
                &mut coefficients,
            );
        }
        let mut sums = vec![[0.0; BLOCK]; fields];
        legendre.add_series(&coefficients, &at, &mut sums);
        sums.iter().map(|sum| sum[0]).collect()
    }

    #[test]
    fn low_degrees_match_their_closed_forms() {
        let legendre = Legendre::new(3);
        let (latitude, longitude) = (35.0_f64, 50.0_f64);
        let (z, s) = latitude.to_radians().sin_cos();
        let phi = longitude.to_radians();
        for (l, m, part, value) in basis(&legendre, latitude, longitude) {
            let expected = match (l, m, part) {
                (0, 0, 0) => 1.0,
                (1, 0, 0) => 3.0_f64.sqrt() * z,
                (1, 1, 0) => -(3.0_f64.sqrt()) * s * phi.cos(),
                (1, 1, 1) => -(3.0_f64.sqrt()) * s * phi.sin(),
                (2, 0, 0) => 5.0_f64.sqrt() * (3.0 * z * z - 1.0) / 2.0,
                (2, 1, 0) => -(15.0_f64.sqrt()) * z * s * phi.cos(),
                (2, 2, 1) => 15.0_f64.sqrt() / 2.0 * s * s * (2.0 * phi).sin(),
                (3, 0, 0) => 7.0_f64.sqrt() * (5.0 * z.powi(3) - 3.0 * z) / 2.0,
                _ => continue,
            };
            assert!(
                (value - expected).abs() < 1e-14,
                "({l}, {m}, {part}): {value} {expected}"
            );
        }
    }

    #[test]
    fn rotation_moves_the_series_east() {
        let legendre = Legendre::new(12);
        let fields = 2;
        let coefficients: Vec<f64> = (0..fields * legendre.terms())
            .map(|i| ((i * 37 % 101) as f64 - 50.0) / 50.0)
            .collect();
        let mut rotated = coefficients.clone();
        legendre.rotate(&mut rotated, fields, 33.0);
        let (mut expected, mut found) = ([[0.0; BLOCK]; 2], [[0.0; BLOCK]; 2]);
        legendre.add_series(
            &coefficients,
            &Directions::from_degrees(&[20.0], &[100.0]),
            &mut expected,
        );
        legendre.add_series(
            &rotated,
            &Directions::from_degrees(&[20.0], &[133.0]),
            &mut found,
        );
        for field in 0..fields {
            assert!((expected[field][0] - found[field][0]).abs() < 1e-11);
        }
    }

    #[test]
    fn a_point_does_not_depend_on_its_lane() {
        let legendre = Legendre::new(29);
        let coefficients: Vec<f64> = (0..legendre.terms())
            .map(|i| (i as f64 * 0.7).sin())
            .collect();
        let alone = {
            let mut sums = [[0.0; BLOCK]];
            legendre.add_series(
                &coefficients,
                &Directions::from_degrees(&[-12.5], &[77.0]),
                &mut sums,
            );
            sums[0][0]
        };
        let latitudes: Vec<f64> = (0..BLOCK)
            .map(|i| if i == 5 { -12.5 } else { i as f64 * 9.0 })
            .collect();
        let longitudes: Vec<f64> = (0..BLOCK)
            .map(|i| if i == 5 { 77.0 } else { i as f64 })
            .collect();
        let mut sums = [[0.0; BLOCK]];
        legendre.add_series(
            &coefficients,
            &Directions::from_degrees(&latitudes, &longitudes),
            &mut sums,
        );
        assert_eq!(sums[0][5].to_bits(), alone.to_bits());
    }
}
