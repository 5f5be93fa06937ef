//! Covariance, analysis and quality control for Python.

use numpy::ndarray::Array2;
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::interruptible;
use crate::analysis::{self, Analysis};
use crate::covariance::{Shape, Term};
use crate::linalg::Matrix;
use crate::network::{ErrorLink, Network, Rows, Site};
use crate::placement::{Candidates, Targets};
use crate::quality::{Flag, Thresholds, screen};
use crate::spread::SpreadQuestion;

type Floats<'py> = PyReadonlyArray1<'py, f64>;
type Table<'py> = PyReadonlyArray2<'py, f64>;
type Pairs<'py> = PyReadonlyArray2<'py, i64>;
type Block<'py> = PyReadonlyArray3<'py, f64>;

fn floats(array: &Floats<'_>) -> Vec<f64> {
    array.as_array().to_vec()
}

fn indices(name: &str, array: &PyReadonlyArray1<'_, i64>) -> PyResult<Vec<usize>> {
    array
        .as_array()
        .iter()
        .map(|&value| {
            usize::try_from(value).map_err(|_| {
                PyValueError::new_err(format!("{name} must not be negative, got {value}"))
            })
        })
        .collect()
}

/// Values row by row as an array (n_rows, n_columns).
fn table<'py>(
    py: Python<'py>,
    n_rows: usize,
    n_columns: usize,
    values: Vec<f64>,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let array = Array2::from_shape_vec((n_rows, n_columns), values)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(array.into_pyarray(py))
}

/// `amplitude` (Q, G), checked and row by row.
fn amplitude_table(
    amplitude: Option<&Table<'_>>,
    n_quantities: usize,
    n_points: usize,
) -> PyResult<Option<Vec<f64>>> {
    let Some(array) = amplitude.map(PyReadonlyArray2::as_array) else {
        return Ok(None);
    };
    if array.dim() == (n_quantities, n_points) {
        Ok(Some(array.iter().copied().collect()))
    } else {
        Err(PyValueError::new_err(format!(
            "amplitude must have shape ({n_quantities}, {n_points}), got {:?}",
            array.dim()
        )))
    }
}

/// `error_pair` (K, 2) and `error_correlation` (K,), both or neither.
fn error_links(
    error_pair: Option<&Pairs<'_>>,
    error_correlation: Option<&Floats<'_>>,
) -> PyResult<Vec<ErrorLink>> {
    let (pairs, correlations) = match (error_pair, error_correlation) {
        (None, None) => return Ok(Vec::new()),
        (Some(pairs), Some(correlations)) => (pairs.as_array(), floats(correlations)),
        _ => {
            return Err(PyValueError::new_err(
                "error_pair and error_correlation belong together, got one of them",
            ));
        }
    };
    if pairs.dim() != (correlations.len(), 2) {
        return Err(PyValueError::new_err(format!(
            "error_pair must have shape ({}, 2) with {0} values of error_correlation, got {:?}",
            correlations.len(),
            pairs.dim()
        )));
    }
    let row = |value: i64| {
        usize::try_from(value).map_err(|_| {
            PyValueError::new_err(format!("error_pair must not be negative, got {value}"))
        })
    };
    pairs
        .rows()
        .into_iter()
        .zip(correlations)
        .map(|(pair, correlation)| {
            Ok(ErrorLink {
                one: row(pair[0])?,
                other: row(pair[1])?,
                correlation,
            })
        })
        .collect()
}

/// Values of a three-dimensional array, checked and the last axis fastest.
fn block(name: &str, array: &Block<'_>, shape: (usize, usize, usize)) -> PyResult<Vec<f64>> {
    let array = array.as_array();
    if array.dim() == shape {
        Ok(array.iter().copied().collect())
    } else {
        Err(PyValueError::new_err(format!(
            "{name} must have shape {shape:?}, got {:?}",
            array.dim()
        )))
    }
}

#[pyclass(name = "CovarianceTerm", module = "rust_core", frozen)]
struct PyTerm {
    term: Term,
    parameters: String,
}

#[pymethods]
impl PyTerm {
    #[new]
    #[pyo3(signature = (spatial, temporal, *, sd, correlation=None, is_modulated=false, time_scale_h, zonal_km=None, meridional_km=None, phase_scale_h=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        spatial: &str,
        temporal: &str,
        sd: Vec<f64>,
        correlation: Option<Table<'_>>,
        is_modulated: bool,
        time_scale_h: f64,
        zonal_km: Option<f64>,
        meridional_km: Option<f64>,
        phase_scale_h: Option<f64>,
    ) -> PyResult<Self> {
        let shape = Shape::new(
            spatial,
            temporal,
            time_scale_h,
            zonal_km,
            meridional_km,
            phase_scale_h,
        )?;
        let correlation = match correlation {
            None => Matrix::identity(sd.len()),
            Some(array) => {
                let array = array.as_array();
                Matrix::from_columns(array.nrows(), array.ncols(), |j, column| {
                    for (i, element) in column.iter_mut().enumerate() {
                        *element = array[(i, j)];
                    }
                })
            }
        };
        let parameters = format!("{spatial} x {temporal}, sd={sd:?}, time_scale_h={time_scale_h}");
        let term = Term::new(shape, sd, &correlation, is_modulated)?;
        Ok(Self { term, parameters })
    }

    #[pyo3(signature = (latitude_deg, longitude_deg, other_latitude_deg, other_longitude_deg, lag_h))]
    fn correlation<'py>(
        &self,
        py: Python<'py>,
        latitude_deg: Floats<'_>,
        longitude_deg: Floats<'_>,
        other_latitude_deg: Floats<'_>,
        other_longitude_deg: Floats<'_>,
        lag_h: Floats<'_>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let columns = [
            latitude_deg,
            longitude_deg,
            other_latitude_deg,
            other_longitude_deg,
            lag_h,
        ]
        .map(|column| floats(&column));
        let n = columns[0].len();
        if columns.iter().any(|column| column.len() != n) {
            return Err(PyValueError::new_err("all arguments must have one length"));
        }
        let shape = self.term.shape();
        let values = (0..n)
            .map(|i| {
                let (here, there) = (
                    shape.embed(columns[0][i], columns[1][i]),
                    shape.embed(columns[2][i], columns[3][i]),
                );
                shape.spatial_correlation(&here, &there) * shape.temporal_correlation(columns[4][i])
            })
            .collect();
        Ok(PyArray1::from_vec(py, values))
    }

    fn __repr__(&self) -> String {
        format!("CovarianceTerm({})", self.parameters)
    }
}

#[pyclass(name = "Analysis", module = "rust_core", frozen)]
struct PyAnalysis {
    analysis: Analysis,
}

#[allow(clippy::too_many_arguments)]
fn rows(
    station: &PyReadonlyArray1<'_, i64>,
    quantity: &PyReadonlyArray1<'_, i64>,
    time_h: &Floats<'_>,
    innovation: &Floats<'_>,
    obs_error: &Floats<'_>,
    amplitude: Option<&Floats<'_>>,
    (error_pair, error_correlation): (Option<&Pairs<'_>>, Option<&Floats<'_>>),
) -> PyResult<Rows> {
    let station = indices("station", station)?;
    Ok(Rows {
        error_links: error_links(error_pair, error_correlation)?,
        quantity: indices("quantity", quantity)?,
        time_h: floats(time_h),
        innovation: floats(innovation),
        obs_error: floats(obs_error),
        amplitude: amplitude.map_or_else(|| vec![1.0; station.len()], floats),
        station,
    })
}

#[pymethods]
impl PyAnalysis {
    #[new]
    #[pyo3(signature = (terms, *, station_latitude_deg, station_longitude_deg, station, quantity, time_h, innovation, obs_error, amplitude=None, error_pair=None, error_correlation=None, place_station=None, max_jitter=0.0, n_threads=0))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        terms: Vec<PyRef<'_, PyTerm>>,
        station_latitude_deg: Floats<'_>,
        station_longitude_deg: Floats<'_>,
        station: PyReadonlyArray1<'_, i64>,
        quantity: PyReadonlyArray1<'_, i64>,
        time_h: Floats<'_>,
        innovation: Floats<'_>,
        obs_error: Floats<'_>,
        amplitude: Option<Floats<'_>>,
        error_pair: Option<Pairs<'_>>,
        error_correlation: Option<Floats<'_>>,
        place_station: Option<PyReadonlyArray1<'_, i64>>,
        max_jitter: f64,
        n_threads: usize,
    ) -> PyResult<Self> {
        let terms = terms.iter().map(|term| term.term.clone()).collect();
        let latitude = floats(&station_latitude_deg);
        let longitude = floats(&station_longitude_deg);
        let place_station = place_station
            .as_ref()
            .map(|array| indices("place_station", array))
            .transpose()?;
        let rows = rows(
            &station,
            &quantity,
            &time_h,
            &innovation,
            &obs_error,
            amplitude.as_ref(),
            (error_pair.as_ref(), error_correlation.as_ref()),
        )?;
        let analysis = interruptible(py, |interrupt| {
            let network = Network::new(terms, &latitude, &longitude, place_station.as_deref())?;
            Analysis::new(network, rows, max_jitter, n_threads, interrupt)
        })?;
        Ok(Self { analysis })
    }

    #[getter]
    fn n_obs(&self) -> usize {
        self.analysis.n_obs()
    }

    #[getter]
    fn chi2(&self) -> f64 {
        self.analysis.chi2()
    }

    #[getter]
    fn log_evidence(&self) -> f64 {
        self.analysis.log_evidence()
    }

    #[getter]
    fn jitter(&self) -> f64 {
        self.analysis.jitter()
    }

    fn alpha<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.analysis.alpha().to_vec().into_pyarray(py)
    }

    fn residual<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        self.analysis.residual().into_pyarray(py)
    }

    #[pyo3(signature = (latitude_deg, longitude_deg, time_h, *, amplitude=None))]
    #[allow(clippy::type_complexity)]
    fn predict<'py>(
        &self,
        py: Python<'py>,
        latitude_deg: Floats<'py>,
        longitude_deg: Floats<'py>,
        time_h: f64,
        amplitude: Option<Table<'py>>,
    ) -> PyResult<(Bound<'py, PyArray2<f64>>, Bound<'py, PyArray2<f64>>)> {
        let (mean, sd, _) = self.predict_pairs(
            py,
            latitude_deg,
            longitude_deg,
            time_h,
            Vec::new(),
            amplitude,
        )?;
        Ok((mean, sd))
    }

    #[pyo3(signature = (latitude_deg, longitude_deg, time_h, pairs, *, amplitude=None))]
    #[allow(clippy::type_complexity)]
    fn predict_pairs<'py>(
        &self,
        py: Python<'py>,
        latitude_deg: Floats<'py>,
        longitude_deg: Floats<'py>,
        time_h: f64,
        pairs: Vec<(usize, usize)>,
        amplitude: Option<Table<'py>>,
    ) -> PyResult<(
        Bound<'py, PyArray2<f64>>,
        Bound<'py, PyArray2<f64>>,
        Bound<'py, PyArray2<f64>>,
    )> {
        let targets = self.targets(latitude_deg, longitude_deg, time_h, amplitude)?;
        let (n_quantities, n_points) = (self.analysis.n_quantities(), targets.latitude_deg.len());
        let estimate = interruptible(py, |interrupt| {
            self.analysis.predict(&targets.points(), &pairs, interrupt)
        })?;
        Ok((
            table(py, n_quantities, n_points, estimate.mean)?,
            table(py, n_quantities, n_points, estimate.sd)?,
            table(py, pairs.len(), n_points, estimate.covariance)?,
        ))
    }

    #[pyo3(signature = (station, quantity, time_h, *, amplitude=None, latitude_deg=None, longitude_deg=None, is_held_out=false, innovation=None))]
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn predict_sites<'py>(
        &self,
        py: Python<'py>,
        station: PyReadonlyArray1<'py, i64>,
        quantity: PyReadonlyArray1<'py, i64>,
        time_h: Floats<'py>,
        amplitude: Option<Floats<'py>>,
        latitude_deg: Option<Floats<'py>>,
        longitude_deg: Option<Floats<'py>>,
        is_held_out: bool,
        innovation: Option<Floats<'py>>,
    ) -> PyResult<(Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>)> {
        let station = indices("station", &station)?;
        let quantity = indices("quantity", &quantity)?;
        let time_h = floats(&time_h);
        let amplitude = amplitude
            .as_ref()
            .map_or_else(|| vec![1.0; time_h.len()], floats);
        let place = match (&latitude_deg, &longitude_deg) {
            (None, None) => None,
            (Some(latitude), Some(longitude)) => Some((floats(latitude), floats(longitude))),
            _ => {
                return Err(PyValueError::new_err(
                    "latitude_deg and longitude_deg belong together, got one of them",
                ));
            }
        };
        let n_places = place
            .as_ref()
            .map_or((time_h.len(), time_h.len()), |(a, b)| (a.len(), b.len()));
        for (name, length) in [
            ("latitude_deg", n_places.0),
            ("longitude_deg", n_places.1),
            ("station", station.len()),
            ("quantity", quantity.len()),
            ("amplitude", amplitude.len()),
        ] {
            if length != time_h.len() {
                return Err(PyValueError::new_err(format!(
                    "{name} must have the length of time_h, {}, got {length}",
                    time_h.len()
                )));
            }
        }
        let sites: Vec<Site> = (0..time_h.len())
            .map(|i| Site {
                station: station[i],
                quantity: quantity[i],
                time_h: time_h[i],
                amplitude: amplitude[i],
                place: place.as_ref().map(|(a, b)| (a[i], b[i])),
            })
            .collect();
        let innovation = innovation.as_ref().map(floats);
        let estimate = py.detach(|| {
            self.analysis
                .predict_sites(&sites, is_held_out, innovation.as_deref())
        })?;
        Ok((estimate.mean.into_pyarray(py), estimate.sd.into_pyarray(py)))
    }

    #[allow(clippy::type_complexity)]
    fn leave_one_out<'py>(
        &self,
        py: Python<'py>,
    ) -> (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>) {
        let (residual, variance) = self.analysis.leave_one_out();
        (residual.into_pyarray(py), variance.into_pyarray(py))
    }

    #[pyo3(signature = (station, innovation=None))]
    #[allow(clippy::type_complexity)]
    fn leave_station_out<'py>(
        &self,
        py: Python<'py>,
        station: usize,
        innovation: Option<Floats<'py>>,
    ) -> PyResult<(
        Bound<'py, PyArray1<i64>>,
        Bound<'py, PyArray1<f64>>,
        Bound<'py, PyArray2<f64>>,
    )> {
        let innovation = innovation.as_ref().map(floats);
        let held = py.detach(|| {
            self.analysis
                .leave_station_out(station, innovation.as_deref())
        })?;
        let rows: Vec<i64> = held.rows.iter().map(|&row| row as i64).collect();
        let n = rows.len();
        Ok((
            rows.into_pyarray(py),
            held.residual.into_pyarray(py),
            table(py, n, n, held.covariance.as_slice().to_vec())?,
        ))
    }

    #[pyo3(signature = (stations, *, error, recency, largest_z2, mean_z2, excluded=None, innovation=None))]
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn spread_evidence<'py>(
        &self,
        py: Python<'py>,
        stations: PyReadonlyArray1<'py, i64>,
        error: Floats<'py>,
        recency: Floats<'py>,
        largest_z2: f64,
        mean_z2: f64,
        excluded: Option<usize>,
        innovation: Option<Floats<'py>>,
    ) -> PyResult<(Bound<'py, PyArray2<f64>>, Bound<'py, PyArray2<f64>>)> {
        let stations = indices("stations", &stations)?;
        let (error, recency) = (floats(&error), floats(&recency));
        let innovation = innovation.as_ref().map(floats);
        let found = py.detach(|| {
            self.analysis.spread_evidence(&SpreadQuestion {
                excluded,
                stations: &stations,
                innovation: innovation.as_deref(),
                error: &error,
                recency: &recency,
                largest_z2,
                mean_z2,
            })
        })?;
        let (n, n_quantities) = (stations.len(), self.analysis.n_quantities());
        Ok((
            table(py, n, n_quantities, found.excess)?,
            table(py, n, n_quantities, found.weight)?,
        ))
    }

    fn evidence_gradient(&self, py: Python<'_>) -> PyResult<Vec<(String, f64)>> {
        interruptible(py, |interrupt| self.analysis.evidence_gradient(interrupt))
    }

    #[pyo3(signature = (latitude_deg, longitude_deg, time_h, *, weight, amplitude=None))]
    fn variance_bought<'py>(
        &self,
        py: Python<'py>,
        latitude_deg: Floats<'py>,
        longitude_deg: Floats<'py>,
        time_h: f64,
        weight: Floats<'py>,
        amplitude: Option<Table<'py>>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let targets = self.targets(latitude_deg, longitude_deg, time_h, amplitude)?;
        let weight = floats(&weight);
        let values = interruptible(py, |interrupt| {
            let targets = Targets {
                points: targets.points(),
                weight: &weight,
            };
            self.analysis.variance_bought(&targets, interrupt)
        })?;
        self.by_quantity(py, values)
    }

    #[pyo3(signature = (latitude_deg, longitude_deg, time_h, *, weight, amplitude=None))]
    fn variance_bought_alone<'py>(
        &self,
        py: Python<'py>,
        latitude_deg: Floats<'py>,
        longitude_deg: Floats<'py>,
        time_h: f64,
        weight: Floats<'py>,
        amplitude: Option<Table<'py>>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let targets = self.targets(latitude_deg, longitude_deg, time_h, amplitude)?;
        let weight = floats(&weight);
        let values = interruptible(py, |interrupt| {
            let targets = Targets {
                points: targets.points(),
                weight: &weight,
            };
            self.analysis.variance_bought_alone(&targets, interrupt)
        })?;
        self.by_quantity(py, values)
    }

    #[pyo3(signature = (error_factor, latitude_deg, longitude_deg, time_h, *, weight, amplitude=None))]
    #[allow(clippy::too_many_arguments)]
    fn upgrade_gain<'py>(
        &self,
        py: Python<'py>,
        error_factor: Floats<'py>,
        latitude_deg: Floats<'py>,
        longitude_deg: Floats<'py>,
        time_h: f64,
        weight: Floats<'py>,
        amplitude: Option<Table<'py>>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let targets = self.targets(latitude_deg, longitude_deg, time_h, amplitude)?;
        let (error_factor, weight) = (floats(&error_factor), floats(&weight));
        let values = interruptible(py, |interrupt| {
            let targets = Targets {
                points: targets.points(),
                weight: &weight,
            };
            self.analysis
                .upgrade_gain(&error_factor, &targets, interrupt)
        })?;
        self.by_quantity(py, values)
    }

    #[pyo3(signature = (candidate_latitude_deg, candidate_longitude_deg, candidate_time_h, noise, latitude_deg, longitude_deg, time_h, *, weight, candidate_amplitude=None, amplitude=None))]
    #[allow(clippy::too_many_arguments)]
    fn candidate_gain<'py>(
        &self,
        py: Python<'py>,
        candidate_latitude_deg: Floats<'py>,
        candidate_longitude_deg: Floats<'py>,
        candidate_time_h: Floats<'py>,
        noise: Block<'py>,
        latitude_deg: Floats<'py>,
        longitude_deg: Floats<'py>,
        time_h: f64,
        weight: Floats<'py>,
        candidate_amplitude: Option<Block<'py>>,
        amplitude: Option<Table<'py>>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let targets = self.targets(latitude_deg, longitude_deg, time_h, amplitude)?;
        let places =
            [candidate_latitude_deg, candidate_longitude_deg].map(|column| floats(&column));
        let sounded_h = floats(&candidate_time_h);
        let shape = (
            sounded_h.len(),
            self.analysis.n_quantities(),
            places[0].len(),
        );
        let noise = block("noise", &noise, shape)?;
        let amplitude = candidate_amplitude
            .map(|array| block("candidate_amplitude", &array, shape))
            .transpose()?;
        let weight = floats(&weight);
        let values = interruptible(py, |interrupt| {
            let targets = Targets {
                points: targets.points(),
                weight: &weight,
            };
            let candidates = Candidates {
                latitude_deg: &places[0],
                longitude_deg: &places[1],
                time_h: &sounded_h,
                noise: &noise,
                amplitude: amplitude.as_deref(),
            };
            self.analysis
                .candidate_gain(&candidates, &targets, interrupt)
        })?;
        self.by_quantity(py, values)
    }

    #[allow(clippy::type_complexity)]
    fn station_information<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>)> {
        let (degrees, gain) = py.detach(|| self.analysis.station_information())?;
        Ok((degrees.into_pyarray(py), gain.into_pyarray(py)))
    }
}

/// Points that outlive the hold on the interpreter.
struct OwnedPoints {
    latitude_deg: Vec<f64>,
    longitude_deg: Vec<f64>,
    time_h: f64,
    amplitude: Option<Vec<f64>>,
}

impl OwnedPoints {
    fn points(&self) -> analysis::Points<'_> {
        analysis::Points {
            latitude_deg: &self.latitude_deg,
            longitude_deg: &self.longitude_deg,
            time_h: self.time_h,
            amplitude: self.amplitude.as_deref(),
        }
    }
}

impl PyAnalysis {
    fn targets(
        &self,
        latitude_deg: Floats<'_>,
        longitude_deg: Floats<'_>,
        time_h: f64,
        amplitude: Option<Table<'_>>,
    ) -> PyResult<OwnedPoints> {
        let latitude_deg = floats(&latitude_deg);
        Ok(OwnedPoints {
            longitude_deg: floats(&longitude_deg),
            time_h,
            amplitude: amplitude_table(
                amplitude.as_ref(),
                self.analysis.n_quantities(),
                latitude_deg.len(),
            )?,
            latitude_deg,
        })
    }

    /// Values (n, Q).
    fn by_quantity<'py>(
        &self,
        py: Python<'py>,
        values: Vec<f64>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let n_quantities = self.analysis.n_quantities();
        table(py, values.len() / n_quantities, n_quantities, values)
    }
}

#[pyfunction]
#[pyo3(signature = (terms, *, station_latitude_deg, station_longitude_deg, station, quantity, time_h, value, innovation, obs_error, minimum, maximum, background_sd, buddy_sd, full_weight_sd, amplitude=None, error_pair=None, error_correlation=None, place_station=None, max_jitter=0.0, n_threads=0))]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn screen_observations<'py>(
    py: Python<'py>,
    terms: Vec<PyRef<'py, PyTerm>>,
    station_latitude_deg: Floats<'py>,
    station_longitude_deg: Floats<'py>,
    station: PyReadonlyArray1<'py, i64>,
    quantity: PyReadonlyArray1<'py, i64>,
    time_h: Floats<'py>,
    value: Floats<'py>,
    innovation: Floats<'py>,
    obs_error: Floats<'py>,
    minimum: Vec<f64>,
    maximum: Vec<f64>,
    background_sd: f64,
    buddy_sd: f64,
    full_weight_sd: f64,
    amplitude: Option<Floats<'py>>,
    error_pair: Option<Pairs<'py>>,
    error_correlation: Option<Floats<'py>>,
    place_station: Option<PyReadonlyArray1<'py, i64>>,
    max_jitter: f64,
    n_threads: usize,
) -> PyResult<(Vec<&'static str>, Bound<'py, PyArray1<f64>>)> {
    let terms = terms.iter().map(|term| term.term.clone()).collect();
    let latitude = floats(&station_latitude_deg);
    let longitude = floats(&station_longitude_deg);
    let place_station = place_station
        .as_ref()
        .map(|array| indices("place_station", array))
        .transpose()?;
    let value = floats(&value);
    let rows = rows(
        &station,
        &quantity,
        &time_h,
        &innovation,
        &obs_error,
        amplitude.as_ref(),
        (error_pair.as_ref(), error_correlation.as_ref()),
    )?;
    let thresholds = Thresholds {
        minimum,
        maximum,
        background_sd,
        buddy_sd,
        full_weight_sd,
        max_jitter,
    };
    let screening = interruptible(py, |interrupt| {
        let network = Network::new(terms, &latitude, &longitude, place_station.as_deref())?;
        screen(&network, &rows, &value, &thresholds, n_threads, interrupt)
    })?;
    let names = screening
        .flag
        .iter()
        .map(|&flag| Flag::NAMES[flag as usize])
        .collect();
    Ok((names, screening.weight.into_pyarray(py)))
}

pub(super) fn add_to(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyTerm>()?;
    module.add_class::<PyAnalysis>()?;
    module.add_function(wrap_pyfunction!(screen_observations, module)?)?;
    Ok(())
}
