//! Climatology, main field, profiles and solar indices for Python.

use numpy::ndarray::{Array1, Array2, Array3};
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArray3, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray4,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::interruptible;
use crate::arguments::Points;
use crate::climatology::{self, LEVEL_COUNT, PARAMETERS, State};
use crate::magnetic::QuasiDipole;
use crate::main_field::{self, Field};
use crate::profile::{self, Peaks, Profile};
use crate::solar_index;
use crate::sun;

/// See `rust_core.pyi`.
#[pyclass(frozen, module = "rust_core")]
struct Climatology(climatology::Climatology);

type Column<'py> = Bound<'py, PyArray1<f64>>;

#[pymethods]
impl Climatology {
    #[new]
    #[pyo3(signature = (*, fof2, hmf2, m3000f2, b0, b1, first_year, qd_latitude, qd_longitude_cos, qd_longitude_sin))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        fof2: PyReadonlyArray4<f64>,
        hmf2: PyReadonlyArray4<f64>,
        m3000f2: PyReadonlyArray4<f64>,
        b0: PyReadonlyArray4<f64>,
        b1: PyReadonlyArray4<f64>,
        first_year: i32,
        qd_latitude: PyReadonlyArray2<f64>,
        qd_longitude_cos: PyReadonlyArray2<f64>,
        qd_longitude_sin: PyReadonlyArray2<f64>,
    ) -> PyResult<Self> {
        let quasi_dipole = QuasiDipole::new(
            first_year,
            qd_latitude.as_array(),
            qd_longitude_cos.as_array(),
            qd_longitude_sin.as_array(),
        )?;
        let maps = [&fof2, &hmf2, &m3000f2, &b0, &b1].map(|map| map.as_array());
        Ok(Climatology(climatology::Climatology::new(
            maps,
            quasi_dipole,
        )?))
    }

    #[pyo3(signature = (time_us, latitude_deg, longitude_deg, ig12, *, n_threads))]
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        time_us: PyReadonlyArray1<i64>,
        latitude_deg: PyReadonlyArray1<f64>,
        longitude_deg: PyReadonlyArray1<f64>,
        ig12: PyReadonlyArray1<f64>,
        n_threads: usize,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let points = Points {
            time_us: time_us.as_slice()?,
            latitude_deg: latitude_deg.as_slice()?,
            longitude_deg: longitude_deg.as_slice()?,
        };
        let ig12 = ig12.as_slice()?;
        let states = interruptible(py, |interrupt| {
            self.0.evaluate(points, ig12, n_threads, interrupt)
        })?;
        let column = |field: fn(&State) -> f64| {
            states
                .iter()
                .map(field)
                .collect::<Array1<f64>>()
                .into_pyarray(py)
        };
        let columns = [
            column(|state| state.fof2_mhz),
            column(|state| state.hmf2_km),
            column(|state| state.m3000f2),
            column(|state| state.b0_km),
            column(|state| state.b1),
            column(|state| state.foe_mhz),
            column(|state| state.solar_zenith_deg),
        ];
        PyTuple::new(py, columns)
    }

    #[pyo3(signature = (time_us, latitude_deg, longitude_deg, *, n_threads))]
    fn levels<'py>(
        &self,
        py: Python<'py>,
        time_us: PyReadonlyArray1<i64>,
        latitude_deg: PyReadonlyArray1<f64>,
        longitude_deg: PyReadonlyArray1<f64>,
        n_threads: usize,
    ) -> PyResult<Bound<'py, PyArray3<f64>>> {
        let points = Points {
            time_us: time_us.as_slice()?,
            latitude_deg: latitude_deg.as_slice()?,
            longitude_deg: longitude_deg.as_slice()?,
        };
        let levels = interruptible(py, |interrupt| self.0.levels(points, n_threads, interrupt))?;
        let shape = (PARAMETERS, LEVEL_COUNT, levels.len());
        let array = Array3::from_shape_fn(shape, |(parameter, level, point)| {
            levels[point][parameter][level]
        });
        Ok(array.into_pyarray(py))
    }

    #[pyo3(signature = (latitude_deg, longitude_deg, year, *, n_threads))]
    fn quasi_dipole<'py>(
        &self,
        py: Python<'py>,
        latitude_deg: PyReadonlyArray1<f64>,
        longitude_deg: PyReadonlyArray1<f64>,
        year: i32,
        n_threads: usize,
    ) -> PyResult<(Column<'py>, Column<'py>)> {
        let (latitude_deg, longitude_deg) = (latitude_deg.as_slice()?, longitude_deg.as_slice()?);
        let (latitude, longitude) = py.detach(|| {
            self.0
                .quasi_dipole()
                .of_points(year, latitude_deg, longitude_deg, n_threads)
        })?;
        Ok((latitude.into_pyarray(py), longitude.into_pyarray(py)))
    }

    #[pyo3(signature = (time_us, latitude_deg, longitude_deg, *, n_threads))]
    fn magnetic_local_time<'py>(
        &self,
        py: Python<'py>,
        time_us: PyReadonlyArray1<i64>,
        latitude_deg: PyReadonlyArray1<f64>,
        longitude_deg: PyReadonlyArray1<f64>,
        n_threads: usize,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let points = Points {
            time_us: time_us.as_slice()?,
            latitude_deg: latitude_deg.as_slice()?,
            longitude_deg: longitude_deg.as_slice()?,
        };
        let rows = py.detach(|| self.0.quasi_dipole().with_local_time(points, n_threads))?;
        columns(py, 0..3, |field| {
            rows.iter().map(|row| row[field]).collect()
        })
    }

    #[getter]
    fn floors(&self) -> [f64; PARAMETERS] {
        climatology::FLOORS
    }
}

fn columns<'py>(
    py: Python<'py>,
    fields: std::ops::Range<usize>,
    column: impl Fn(usize) -> Array1<f64>,
) -> PyResult<Bound<'py, PyTuple>> {
    PyTuple::new(py, fields.map(|field| column(field).into_pyarray(py)))
}

/// See `rust_core.pyi`.
#[pyclass(frozen, module = "rust_core")]
struct MainField(main_field::MainField);

#[pymethods]
impl MainField {
    #[new]
    fn new(epochs: PyReadonlyArray1<f64>, coefficients: PyReadonlyArray2<f64>) -> PyResult<Self> {
        Ok(MainField(main_field::MainField::new(
            epochs.as_array(),
            coefficients.as_array(),
        )?))
    }

    #[pyo3(signature = (time_us, latitude_deg, longitude_deg, height_km, *, n_threads))]
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        time_us: PyReadonlyArray1<i64>,
        latitude_deg: PyReadonlyArray1<f64>,
        longitude_deg: PyReadonlyArray1<f64>,
        height_km: PyReadonlyArray1<f64>,
        n_threads: usize,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let points = Points {
            time_us: time_us.as_slice()?,
            latitude_deg: latitude_deg.as_slice()?,
            longitude_deg: longitude_deg.as_slice()?,
        };
        let height_km = height_km.as_slice()?;
        let rows: Vec<[f64; 9]> = interruptible(py, |interrupt| {
            let fields = self.0.evaluate(points, height_km, n_threads, interrupt)?;
            let row = |(field, &latitude_deg): (&Field, &f64)| {
                [
                    field.north_nt,
                    field.east_nt,
                    field.down_nt,
                    field.intensity_nt(),
                    field.inclination_deg(),
                    field.declination_deg(),
                    field.modip_deg(latitude_deg),
                    field.dip_latitude_deg(),
                    field.gyrofrequency_mhz(),
                ]
            };
            Ok(fields.iter().zip(points.latitude_deg).map(row).collect())
        })?;
        columns(py, 0..9, |field| {
            rows.iter().map(|row| row[field]).collect()
        })
    }
}

/// The eight columns of [`Peaks`], in their order.
pub(super) type PeakColumns<'py> = [PyReadonlyArray1<'py, f64>; 8];

pub(super) fn peaks<'a>(columns: &'a PeakColumns<'_>) -> PyResult<Peaks<'a>> {
    let [fof2, hmf2, m3000, b0, b1, foe, zenith, r12] = columns;
    Ok(Peaks {
        fof2_mhz: fof2.as_slice()?,
        hmf2_km: hmf2.as_slice()?,
        m3000f2: m3000.as_slice()?,
        b0_km: b0.as_slice()?,
        b1: b1.as_slice()?,
        foe_mhz: foe.as_slice()?,
        solar_zenith_deg: zenith.as_slice()?,
        r12: r12.as_slice()?,
    })
}

#[pyfunction]
fn layers<'py>(
    py: Python<'py>,
    columns_of_peaks: PeakColumns<'py>,
) -> PyResult<Bound<'py, PyTuple>> {
    let given = peaks(&columns_of_peaks)?;
    let profiles = py.detach(|| given.profiles())?;
    let fields: [fn(&Profile) -> f64; 6] = [
        |profile| profile.fof1_mhz(),
        |profile| profile.hmf1_km,
        |profile| profile.f1_probability,
        |profile| profile.f1_bottom_km,
        |profile| profile.f2_top_km,
        |profile| profile.f2_bottom_km,
    ];
    columns(py, 0..fields.len(), |field| {
        profiles.iter().map(fields[field]).collect()
    })
}

#[pyfunction]
#[pyo3(signature = (columns_of_peaks, heights_km, *, n_threads))]
fn density<'py>(
    py: Python<'py>,
    columns_of_peaks: PeakColumns<'py>,
    heights_km: PyReadonlyArray1<f64>,
    n_threads: usize,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let given = peaks(&columns_of_peaks)?;
    let heights_km = heights_km.as_slice()?;
    let shape = (heights_km.len(), given.fof2_mhz.len());
    let values = interruptible(py, |interrupt| {
        profile::densities(given, heights_km, n_threads, interrupt)
    })?;
    let array = Array2::from_shape_vec(shape, values)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(array.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (columns_of_peaks, *, low_km, high_km, n_threads))]
fn electron_content<'py>(
    py: Python<'py>,
    columns_of_peaks: PeakColumns<'py>,
    low_km: f64,
    high_km: f64,
    n_threads: usize,
) -> PyResult<Column<'py>> {
    let given = peaks(&columns_of_peaks)?;
    let values = interruptible(py, |interrupt| {
        profile::contents_tecu(given, (low_km, high_km), n_threads, interrupt)
    })?;
    Ok(values.into_pyarray(py))
}

#[pyfunction]
fn f107_to_ig12(f107_sfu: f64) -> PyResult<f64> {
    Ok(solar_index::f107_to_ig12(f107_sfu)?)
}

#[pyfunction]
fn ig12_to_r12(ig12: f64) -> PyResult<f64> {
    Ok(solar_index::ig12_to_r12(ig12))
}

#[pyfunction]
fn subsolar_point(time_us: i64) -> (f64, f64) {
    let sun = sun::subsolar_point(time_us);
    (sun.latitude_deg, sun.longitude_deg)
}

pub(super) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Climatology>()?;
    module.add_class::<MainField>()?;
    module.add_function(wrap_pyfunction!(layers, module)?)?;
    module.add_function(wrap_pyfunction!(density, module)?)?;
    module.add_function(wrap_pyfunction!(electron_content, module)?)?;
    module.add_function(wrap_pyfunction!(f107_to_ig12, module)?)?;
    module.add_function(wrap_pyfunction!(ig12_to_r12, module)?)?;
    module.add_function(wrap_pyfunction!(subsolar_point, module)?)?;
    Ok(())
}
