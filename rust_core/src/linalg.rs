//! The only file that knows the linear-algebra crate.
//!
//! Every call into faer is sequential; parallelism is over column blocks of fixed width, so the bits of a
//! result do not depend on the number of threads.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor as llt;
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Columns that one thread works on at a time: fixed, because the blocking decides the rounding.
const BLOCK_COLUMNS: usize = 64;

/// Dense matrix of f64, column by column.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    n_rows: usize,
    n_columns: usize,
    data: Vec<f64>,
}

impl Matrix {
    pub fn zeros(n_rows: usize, n_columns: usize) -> Self {
        Self {
            n_rows,
            n_columns,
            data: vec![0.0; n_rows * n_columns],
        }
    }

    /// The matrix with `fill(column index, column)` run for every column, columns in parallel.
    pub fn from_columns(
        n_rows: usize,
        n_columns: usize,
        fill: impl Fn(usize, &mut [f64]) + Sync,
    ) -> Self {
        let mut matrix = Self::zeros(n_rows, n_columns);
        if n_rows > 0 {
            matrix
                .data
                .par_chunks_mut(n_rows)
                .enumerate()
                .for_each(|(j, column)| fill(j, column));
        }
        matrix
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub fn n_columns(&self) -> usize {
        self.n_columns
    }

    pub fn column(&self, j: usize) -> &[f64] {
        &self.data[j * self.n_rows..(j + 1) * self.n_rows]
    }

    pub fn column_mut(&mut self, j: usize) -> &mut [f64] {
        &mut self.data[j * self.n_rows..(j + 1) * self.n_rows]
    }

    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.data[j * self.n_rows + i]
    }

    pub fn set(&mut self, i: usize, j: usize, value: f64) {
        self.data[j * self.n_rows + i] = value;
    }

    /// All elements, column by column.
    pub fn as_slice(&self) -> &[f64] {
        &self.data
    }

    /// The rows and columns of a square matrix at `index`.
    pub fn select(&self, index: &[usize]) -> Self {
        let mut chosen = Self::zeros(index.len(), index.len());
        for (j, &column) in index.iter().enumerate() {
            for (i, &row) in index.iter().enumerate() {
                chosen.set(i, j, self.get(row, column));
            }
        }
        chosen
    }

    /// `A v`, shape (n_rows,).
    pub fn times_vector(&self, vector: &[f64]) -> Vec<f64> {
        let mut product = vec![0.0; self.n_rows];
        for (j, &weight) in vector.iter().enumerate() {
            for (sum, &element) in product.iter_mut().zip(self.column(j)) {
                *sum += weight * element;
            }
        }
        product
    }

    /// `A B`, sequential.
    pub fn times(&self, other: &Matrix) -> Matrix {
        let mut product = Matrix::zeros(self.n_rows, other.n_columns);
        if !product.data.is_empty() && self.n_columns > 0 {
            matmul(
                product.view_mut(),
                Accum::Replace,
                self.view(),
                other.view(),
                1.0,
                Par::Seq,
            );
        }
        product
    }

    /// `A' A`, column blocks in parallel.
    pub fn gram(&self) -> Matrix {
        let mut product = Matrix::zeros(self.n_columns, self.n_columns);
        if self.data.is_empty() {
            return product;
        }
        let n_columns = self.n_columns;
        product
            .data
            .par_chunks_mut(BLOCK_COLUMNS * n_columns)
            .enumerate()
            .for_each(|(block, chunk)| {
                let width = chunk.len() / n_columns;
                let right = self.view().subcols(block * BLOCK_COLUMNS, width);
                matmul(
                    MatMut::from_column_major_slice_mut(chunk, n_columns, width),
                    Accum::Replace,
                    self.view().transpose(),
                    right,
                    1.0,
                    Par::Seq,
                );
            });
        product
    }

    fn view(&self) -> MatRef<'_, f64> {
        MatRef::from_column_major_slice(&self.data, self.n_rows, self.n_columns)
    }

    fn view_mut(&mut self) -> MatMut<'_, f64> {
        MatMut::from_column_major_slice_mut(&mut self.data, self.n_rows, self.n_columns)
    }
}

/// Dot product of two vectors of the same length.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Lower factor of a symmetric positive definite matrix, `A = L L'`.
#[derive(Clone, Debug)]
pub struct Cholesky {
    lower: Matrix,
}

impl Cholesky {
    /// Factorises `matrix` (its lower triangle is read).
    ///
    /// Errors with the row of the first pivot that is not positive.
    pub fn new(mut matrix: Matrix) -> Result<Self, usize> {
        let n = matrix.n_rows;
        if n == 0 {
            return Ok(Self { lower: matrix });
        }
        let params = Default::default();
        let mut memory = MemBuffer::new(llt::cholesky_in_place_scratch::<f64>(n, Par::Seq, params));
        let outcome = llt::cholesky_in_place(
            matrix.view_mut(),
            Default::default(),
            Par::Seq,
            MemStack::new(&mut memory),
            params,
        );
        match outcome {
            Ok(_) => {
                for j in 1..n {
                    matrix.column_mut(j)[..j].fill(0.0);
                }
                Ok(Self { lower: matrix })
            }
            Err(llt::LltError::NonPositivePivot { index }) => Err(index),
        }
    }

    /// The diagonal of `L`.
    pub fn diagonal(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.lower.n_rows).map(|i| self.lower.get(i, i))
    }

    /// `ln det A`.
    pub fn log_determinant(&self) -> f64 {
        2.0 * self.diagonal().map(f64::ln).sum::<f64>()
    }

    /// `L^-1 B`, column blocks in parallel.
    pub fn solve_lower(&self, mut right: Matrix) -> Matrix {
        let n = self.lower.n_rows;
        if right.data.is_empty() {
            return right;
        }
        right
            .data
            .par_chunks_mut(BLOCK_COLUMNS * n)
            .for_each(|chunk| {
                let width = chunk.len() / n;
                solve_lower_triangular_in_place(
                    self.lower.view(),
                    MatMut::from_column_major_slice_mut(chunk, n, width),
                    Par::Seq,
                );
            });
        right
    }

    /// `A^-1`, symmetric to the bit, column blocks in parallel.
    pub fn inverse(&self) -> Matrix {
        let n = self.lower.n_rows;
        let mut inverse = Matrix::zeros(n, n);
        if n == 0 {
            return inverse;
        }
        // L^-1 first: the columns of a block are zero above the block, so only the trailing corner is solved.
        let mut lower_inverse = Matrix::zeros(n, n);
        lower_inverse
            .data
            .par_chunks_mut(BLOCK_COLUMNS * n)
            .enumerate()
            .for_each(|(block, chunk)| {
                let first = block * BLOCK_COLUMNS;
                let width = chunk.len() / n;
                for j in 0..width {
                    chunk[j * n + first + j] = 1.0;
                }
                solve_lower_triangular_in_place(
                    self.lower
                        .view()
                        .submatrix(first, first, n - first, n - first),
                    MatMut::from_column_major_slice_mut(chunk, n, width)
                        .subrows_mut(first, n - first),
                    Par::Seq,
                );
            });
        // A^-1 = L^-T L^-1, lower triangle by blocks, then mirrored.
        let factor = &lower_inverse;
        inverse
            .data
            .par_chunks_mut(BLOCK_COLUMNS * n)
            .enumerate()
            .for_each(|(block, chunk)| {
                let first = block * BLOCK_COLUMNS;
                let width = chunk.len() / n;
                matmul(
                    MatMut::from_column_major_slice_mut(chunk, n, width)
                        .subrows_mut(first, n - first),
                    Accum::Replace,
                    factor
                        .view()
                        .submatrix(first, first, n - first, n - first)
                        .transpose(),
                    factor.view().submatrix(first, first, n - first, width),
                    1.0,
                    Par::Seq,
                );
            });
        for j in 0..n {
            for i in 0..j {
                let mirrored = inverse.get(j, i);
                inverse.set(i, j, mirrored);
            }
        }
        inverse
    }
}
