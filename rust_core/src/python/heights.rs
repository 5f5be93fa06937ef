//! Virtual heights, group delays and ceilings for Python.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::background::{PeakColumns, peaks};
use super::interruptible;
use crate::echoes::{self, Waves};
use crate::virtual_height::N_PARAMETERS;

type Column<'py> = Bound<'py, PyArray1<f64>>;
type Table<'py> = Bound<'py, PyArray2<f64>>;
/// Gyrofrequency, dip, distance.
type PathColumns<'py> = [PyReadonlyArray1<'py, f64>; 3];

fn waves<'a>(
    profile: &'a PyReadonlyArray1<'_, i64>,
    is_extraordinary: &'a PyReadonlyArray1<'_, bool>,
    [gyrofrequency, dip, distance]: &'a PathColumns<'_>,
) -> PyResult<Waves<'a>> {
    Ok(Waves {
        profile: profile.as_slice()?,
        is_extraordinary: is_extraordinary.as_slice()?,
        gyrofrequency_mhz: gyrofrequency.as_slice()?,
        dip_deg: dip.as_slice()?,
        distance_km: distance.as_slice()?,
    })
}

fn table<'py>(py: Python<'py>, rows: Vec<f64>) -> PyResult<Table<'py>> {
    let shape = (rows.len() / N_PARAMETERS, N_PARAMETERS);
    let array = Array2::from_shape_vec(shape, rows)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(array.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (columns_of_peaks, profile, is_extraordinary, columns_of_paths, frequency_mhz, *, with_derivatives, n_threads))]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn group_delays<'py>(
    py: Python<'py>,
    columns_of_peaks: PeakColumns<'py>,
    profile: PyReadonlyArray1<i64>,
    is_extraordinary: PyReadonlyArray1<bool>,
    columns_of_paths: PathColumns<'py>,
    frequency_mhz: PyReadonlyArray1<f64>,
    with_derivatives: bool,
    n_threads: usize,
) -> PyResult<(
    Column<'py>,
    Column<'py>,
    Column<'py>,
    Option<(Table<'py>, Table<'py>)>,
)> {
    let given = peaks(&columns_of_peaks)?;
    let waves = waves(&profile, &is_extraordinary, &columns_of_paths)?;
    let frequency_mhz = frequency_mhz.as_slice()?;
    let echoes = interruptible(py, |interrupt| {
        echoes::group_delays(
            given,
            waves,
            frequency_mhz,
            with_derivatives,
            n_threads,
            interrupt,
        )
    })?;
    let column = |field: fn(&crate::oblique::Echo) -> f64| {
        echoes
            .iter()
            .map(field)
            .collect::<Vec<f64>>()
            .into_pyarray(py)
    };
    let derivatives = if with_derivatives {
        let delays = echoes.iter().flat_map(|echo| echo.delay_by).collect();
        let heights = echoes.iter().flat_map(|echo| echo.height_by).collect();
        Some((table(py, delays)?, table(py, heights)?))
    } else {
        None
    };
    Ok((
        column(|echo| echo.delay_ms),
        column(|echo| echo.virtual_height_km),
        column(|echo| echo.equivalent_mhz),
        derivatives,
    ))
}

#[pyfunction]
#[pyo3(signature = (columns_of_peaks, profile, is_extraordinary, columns_of_paths, *, n_threads))]
fn ceilings<'py>(
    py: Python<'py>,
    columns_of_peaks: PeakColumns<'py>,
    profile: PyReadonlyArray1<i64>,
    is_extraordinary: PyReadonlyArray1<bool>,
    columns_of_paths: PathColumns<'py>,
    n_threads: usize,
) -> PyResult<(Column<'py>, Table<'py>)> {
    let given = peaks(&columns_of_peaks)?;
    let waves = waves(&profile, &is_extraordinary, &columns_of_paths)?;
    let ceilings = interruptible(py, |interrupt| {
        echoes::ceilings(given, waves, n_threads, interrupt)
    })?;
    let mhz: Vec<f64> = ceilings.iter().map(|ceiling| ceiling.mhz).collect();
    let by = ceilings.iter().flat_map(|ceiling| ceiling.by).collect();
    Ok((mhz.into_pyarray(py), table(py, by)?))
}

pub(super) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(group_delays, module)?)?;
    module.add_function(wrap_pyfunction!(ceilings, module)?)?;
    Ok(())
}
