//! Forward-mode derivatives: a number and its partial derivatives with respect to N parameters, carried together.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// What the formulas need of a number, so that one text gives the value alone or the value with its derivatives.
pub trait Real:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    fn constant(value: f64) -> Self;
    fn value(self) -> f64;
    fn exp(self) -> Self;
    fn sqrt(self) -> Self;
    fn cosh(self) -> Self;
    fn powf(self, exponent: f64) -> Self;

    fn max(self, other: Self) -> Self {
        if self.value() >= other.value() {
            self
        } else {
            other
        }
    }

    fn min(self, other: Self) -> Self {
        if self.value() <= other.value() {
            self
        } else {
            other
        }
    }
}

impl Real for f64 {
    fn constant(value: f64) -> Self {
        value
    }
    fn value(self) -> f64 {
        self
    }
    fn exp(self) -> Self {
        self.exp()
    }
    fn sqrt(self) -> Self {
        self.sqrt()
    }
    fn cosh(self) -> Self {
        self.cosh()
    }
    fn powf(self, exponent: f64) -> Self {
        self.powf(exponent)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dual<const N: usize> {
    pub value: f64,
    pub slope: [f64; N],
}

impl<const N: usize> Dual<N> {
    /// The parameter `index` itself.
    pub fn parameter(value: f64, index: usize) -> Self {
        let mut slope = [0.0; N];
        slope[index] = 1.0;
        Dual { value, slope }
    }

    fn chain(self, value: f64, derivative: f64) -> Self {
        Dual {
            value,
            // What does not depend on a parameter stays so where the function is steepest.
            slope: self
                .slope
                .map(|s| if s == 0.0 { 0.0 } else { s * derivative }),
        }
    }

    fn combine(self, other: Self, value: f64, of_self: f64, of_other: f64) -> Self {
        let mut slope = [0.0; N];
        for (index, target) in slope.iter_mut().enumerate() {
            *target = of_self * self.slope[index] + of_other * other.slope[index];
        }
        Dual { value, slope }
    }
}

impl<const N: usize> Add for Dual<N> {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.combine(other, self.value + other.value, 1.0, 1.0)
    }
}

impl<const N: usize> Sub for Dual<N> {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.combine(other, self.value - other.value, 1.0, -1.0)
    }
}

impl<const N: usize> Mul for Dual<N> {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        self.combine(other, self.value * other.value, other.value, self.value)
    }
}

impl<const N: usize> Div for Dual<N> {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let value = self.value / other.value;
        self.combine(other, value, 1.0 / other.value, -value / other.value)
    }
}

impl<const N: usize> Neg for Dual<N> {
    type Output = Self;
    fn neg(self) -> Self {
        self.chain(-self.value, -1.0)
    }
}

impl<const N: usize> Real for Dual<N> {
    fn constant(value: f64) -> Self {
        Dual {
            value,
            slope: [0.0; N],
        }
    }
    fn value(self) -> f64 {
        self.value
    }
    fn exp(self) -> Self {
        let value = self.value.exp();
        self.chain(value, value)
    }
    fn sqrt(self) -> Self {
        let value = self.value.sqrt();
        self.chain(value, 0.5 / value)
    }
    fn cosh(self) -> Self {
        self.chain(self.value.cosh(), self.value.sinh())
    }
    fn powf(self, exponent: f64) -> Self {
        self.chain(
            self.value.powf(exponent),
            exponent * self.value.powf(exponent - 1.0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formula<T: Real>(x: T, y: T) -> T {
        let ratio = (x * y - T::constant(0.3)) / (y + x.cosh());
        (ratio.exp() + x.powf(1.7)).sqrt() - (-y).max(x.min(y))
    }

    #[test]
    fn derivatives_are_those_of_differences() {
        let (x, y, step) = (0.8, 1.3, 1e-6);
        let found = formula(Dual::<2>::parameter(x, 0), Dual::<2>::parameter(y, 1));
        assert_eq!(found.value, formula(x, y));
        let by_x = (formula(x + step, y) - formula(x - step, y)) / (2.0 * step);
        let by_y = (formula(x, y + step) - formula(x, y - step)) / (2.0 * step);
        assert!((found.slope[0] - by_x).abs() < 1e-8, "{found:?} {by_x}");
        assert!((found.slope[1] - by_y).abs() < 1e-8, "{found:?} {by_y}");
    }
}
