//! The only file that knows the linear-algebra crate.
//!
//! Every call into faer is sequential; parallelism is over column blocks of fixed width, so the bits of a
//! result do not depend on the number of threads.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor as llt;
use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Solve;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, MatMut, MatRef, Par, Side};
use rayon::prelude::*;

use crate::error;
use crate::interrupt::Interrupt;

/// Columns that one thread works on at a time: fixed, because the blocking decides the rounding.
const BLOCK_COLUMNS: usize = 64;
/// Columns of a factor that are finished before the rest is updated with them: fixed, for the same reason.
const PANEL_COLUMNS: usize = 128;

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

    pub fn identity(n: usize) -> Self {
        let mut matrix = Self::zeros(n, n);
        for i in 0..n {
            matrix.set(i, i, 1.0);
        }
        matrix
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

    /// Adds a matrix of the same shape.
    pub fn add(&mut self, other: &Matrix) {
        for (sum, value) in self.data.iter_mut().zip(&other.data) {
            *sum += value;
        }
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

    /// `A' v`, shape (n_columns,).
    pub fn transpose_times_vector(&self, vector: &[f64]) -> Vec<f64> {
        (0..self.n_columns)
            .map(|j| dot(self.column(j), vector))
            .collect()
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

    /// The lower triangle of a symmetric matrix, its elements below the diagonal doubled: `v' L v = v' A v`.
    pub fn folded(mut self) -> Matrix {
        for j in 0..self.n_columns {
            let (above, below) = self.column_mut(j).split_at_mut(j);
            above.fill(0.0);
            below[1..].iter_mut().for_each(|element| *element *= 2.0);
        }
        self
    }

    /// `L B` of a lower triangular matrix, sequential: half the cost of `A B`.
    pub fn lower_times(&self, other: &Matrix) -> Matrix {
        let mut product = Matrix::zeros(self.n_rows, other.n_columns);
        for first in (0..self.n_rows).step_by(BLOCK_COLUMNS) {
            let height = BLOCK_COLUMNS.min(self.n_rows - first);
            let end = first + height;
            matmul(
                product.view_mut().subrows_mut(first, height),
                Accum::Replace,
                self.view().submatrix(first, 0, height, end),
                other.view().subrows(0, end),
                1.0,
                Par::Seq,
            );
        }
        product
    }

    /// `A' A`, column blocks in parallel.
    pub fn gram(&self) -> Matrix {
        self.transpose_times(self)
    }

    /// `A A'`, column blocks in parallel.
    pub fn outer(&self) -> Matrix {
        let n = self.n_rows;
        let mut product = Matrix::zeros(n, n);
        if product.data.is_empty() || self.n_columns == 0 {
            return product;
        }
        product
            .data
            .par_chunks_mut(BLOCK_COLUMNS * n)
            .enumerate()
            .for_each(|(block, chunk)| {
                let width = chunk.len() / n;
                matmul(
                    MatMut::from_column_major_slice_mut(chunk, n, width),
                    Accum::Replace,
                    self.view(),
                    self.view()
                        .subrows(block * BLOCK_COLUMNS, width)
                        .transpose(),
                    1.0,
                    Par::Seq,
                );
            });
        product
    }

    /// `A' B`, column blocks in parallel.
    pub fn transpose_times(&self, other: &Matrix) -> Matrix {
        let mut product = Matrix::zeros(self.n_columns, other.n_columns);
        if product.data.is_empty() || self.n_rows == 0 {
            return product;
        }
        let n_rows = self.n_columns;
        product
            .data
            .par_chunks_mut(BLOCK_COLUMNS * n_rows)
            .enumerate()
            .for_each(|(block, chunk)| {
                let width = chunk.len() / n_rows;
                let right = other.view().subcols(block * BLOCK_COLUMNS, width);
                matmul(
                    MatMut::from_column_major_slice_mut(chunk, n_rows, width),
                    Accum::Replace,
                    self.view().transpose(),
                    right,
                    1.0,
                    Par::Seq,
                );
            });
        product
    }

    /// `A^-1 B` of a small square matrix, by elimination with partial pivoting.
    pub fn solve(&self, right: &Matrix) -> Matrix {
        let mut solution = right.clone();
        self.view()
            .partial_piv_lu()
            .solve_in_place(solution.view_mut());
        solution
    }

    /// The smallest eigenvalue of a symmetric matrix; not a number when the iteration fails.
    pub fn smallest_eigenvalue(&self) -> f64 {
        self.view()
            .self_adjoint_eigenvalues(Side::Lower)
            .map_or(f64::NAN, |values| {
                values.into_iter().fold(f64::INFINITY, f64::min)
            })
    }

    /// The columns `first..first + width` of the lower factor, given all before, and what they take from those behind.
    ///
    /// Golub and Van Loan (2013), section 4.2.9. Errors with the row in the panel of the first pivot that is not positive.
    fn factorize_panel(&mut self, first: usize, width: usize) -> Result<(), usize> {
        let n = self.n_rows;
        let end = first + width;
        let (done, behind) = self.data.split_at_mut(end * n);
        let panel = &mut done[first * n..];
        let (mut top, below) = MatMut::from_column_major_slice_mut(panel, n, width)
            .subrows_mut(first, n - first)
            .split_at_row_mut(width);
        let params = Default::default();
        let mut memory = MemBuffer::new(llt::cholesky_in_place_scratch::<f64>(
            width,
            Par::Seq,
            params,
        ));
        llt::cholesky_in_place(
            top.as_mut(),
            Default::default(),
            Par::Seq,
            MemStack::new(&mut memory),
            params,
        )
        .map_err(|llt::LltError::NonPositivePivot { index }| index)?;
        let top = top.as_ref();
        below
            .par_row_chunks_mut(BLOCK_COLUMNS)
            .for_each(|rows| solve_lower_triangular_in_place(top, rows.transpose_mut(), Par::Seq));
        let panel = MatRef::from_column_major_slice(panel, n, width);
        behind
            .par_chunks_mut(BLOCK_COLUMNS * n)
            .enumerate()
            .for_each(|(block, chunk)| {
                let row = end + block * BLOCK_COLUMNS;
                let columns = chunk.len() / n;
                matmul(
                    MatMut::from_column_major_slice_mut(chunk, n, columns)
                        .subrows_mut(row, n - row),
                    Accum::Add,
                    panel.subrows(row, n - row),
                    panel.subrows(row, columns).transpose(),
                    -1.0,
                    Par::Seq,
                );
            });
        Ok(())
    }

    /// `L' L` of a lower triangular matrix: its lower triangle by blocks of columns in parallel, then mirrored.
    fn symmetric_square(&self, interrupt: &Interrupt) -> error::Result<Matrix> {
        let n = self.n_rows;
        let mut product = Matrix::zeros(n, n);
        if n == 0 {
            return Ok(product);
        }
        product
            .data
            .par_chunks_mut(BLOCK_COLUMNS * n)
            .enumerate()
            .try_for_each(|(block, chunk)| -> error::Result<()> {
                interrupt.check()?;
                let first = block * BLOCK_COLUMNS;
                let width = chunk.len() / n;
                matmul(
                    MatMut::from_column_major_slice_mut(chunk, n, width)
                        .subrows_mut(first, n - first),
                    Accum::Replace,
                    self.view()
                        .submatrix(first, first, n - first, n - first)
                        .transpose(),
                    self.view().submatrix(first, first, n - first, width),
                    1.0,
                    Par::Seq,
                );
                Ok(())
            })?;
        product.mirror();
        Ok(product)
    }

    /// Copies the lower triangle to the upper one, in tiles: a whole column at a time would miss the cache at every step.
    pub fn mirror(&mut self) {
        let n = self.n_rows;
        for first_column in (0..n).step_by(BLOCK_COLUMNS) {
            for first_row in (0..=first_column).step_by(BLOCK_COLUMNS) {
                for j in first_column..(first_column + BLOCK_COLUMNS).min(n) {
                    for i in first_row..(first_row + BLOCK_COLUMNS).min(j) {
                        self.data[j * n + i] = self.data[i * n + j];
                    }
                }
            }
        }
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

/// Which of `n` values of a field, of variance 1 or less, tell the others, and the weights (n, chosen) that do so.
///
/// Pivoted Cholesky factorisation (Harbrecht, Peters and Schneider 2012, algorithm 1): the value that is least known is
/// chosen next, until no variance above `tolerance` is left.
pub fn interpolation(
    n: usize,
    tolerance: f64,
    correlation: impl Fn(usize, usize) -> f64,
) -> (Vec<usize>, Matrix) {
    let mut left: Vec<f64> = (0..n).map(|i| correlation(i, i)).collect();
    let mut chosen: Vec<usize> = Vec::new();
    let mut columns: Vec<Vec<f64>> = Vec::new();
    while let Some((pivot, variance)) = left
        .iter()
        .copied()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))
        .filter(|(_, variance)| *variance > tolerance)
    {
        let root = variance.sqrt();
        let mut column: Vec<f64> = (0..n)
            .map(|i| {
                let known: f64 = columns.iter().map(|other| other[i] * other[pivot]).sum();
                (correlation(i, pivot) - known) / root
            })
            .collect();
        for &earlier in &chosen {
            column[earlier] = 0.0;
        }
        column[pivot] = root;
        for (variance, element) in left.iter_mut().zip(&column) {
            *variance -= element * element;
        }
        left[pivot] = 0.0;
        chosen.push(pivot);
        columns.push(column);
    }
    // weights = K_SP K_PP^-1 = L_S L_P^-1, L_P lower triangular: L_P' w = l_s for each value s.
    let rank = chosen.len();
    let mut weights = Matrix::zeros(n, rank);
    for s in 0..n {
        for k in (0..rank).rev() {
            let later: f64 = (k + 1..rank)
                .map(|q| columns[k][chosen[q]] * weights.get(s, q))
                .sum();
            weights.set(s, k, (columns[k][s] - later) / columns[k][chosen[k]]);
        }
    }
    (chosen, weights)
}

/// Lower factor of a symmetric positive definite matrix, `A = L L'`.
#[derive(Clone, Debug)]
pub struct Cholesky {
    lower: Matrix,
}

impl Cholesky {
    /// Factorises `matrix` (its lower triangle is read), panel by panel, column blocks in parallel.
    ///
    /// Errors with the row of the first pivot that is not positive, or that was not reached before the interrupt.
    pub fn new(mut matrix: Matrix, interrupt: &Interrupt) -> Result<Self, usize> {
        let n = matrix.n_rows;
        for first in (0..n).step_by(PANEL_COLUMNS) {
            interrupt.check().map_err(|_| first)?;
            matrix
                .factorize_panel(first, PANEL_COLUMNS.min(n - first))
                .map_err(|row| first + row)?;
        }
        for j in 1..n {
            matrix.column_mut(j)[..j].fill(0.0);
        }
        Ok(Self { lower: matrix })
    }

    /// The diagonal of `L`.
    pub fn diagonal(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.lower.n_rows).map(|i| self.lower.get(i, i))
    }

    /// `L`, zeros above its diagonal.
    pub fn into_lower(self) -> Matrix {
        self.lower
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
    pub fn inverse(&self, interrupt: &Interrupt) -> error::Result<Matrix> {
        self.lower_inverse(interrupt)?.symmetric_square(interrupt)
    }

    /// As `inverse`, where the factor is not needed any more: one matrix less at a time.
    pub fn into_inverse(self, interrupt: &Interrupt) -> error::Result<Matrix> {
        let lower_inverse = self.lower_inverse(interrupt)?;
        drop(self);
        lower_inverse.symmetric_square(interrupt)
    }

    /// `L^-1`.
    fn lower_inverse(&self, interrupt: &Interrupt) -> error::Result<Matrix> {
        let n = self.lower.n_rows;
        let mut lower_inverse = Matrix::zeros(n, n);
        if n == 0 {
            return Ok(lower_inverse);
        }
        // The columns of a block are zero above the block, so only the trailing corner is solved.
        lower_inverse
            .data
            .par_chunks_mut(BLOCK_COLUMNS * n)
            .enumerate()
            .try_for_each(|(block, chunk)| -> error::Result<()> {
                interrupt.check()?;
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
                Ok(())
            })?;
        Ok(lower_inverse)
    }
}

/// Rows of a matrix that is block diagonal after sorting them into blocks.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// Of every block, ascending.
    rows: Vec<Vec<usize>>,
    /// The block of every row, and its place there.
    place: Vec<(usize, usize)>,
}

impl Blocks {
    /// `rows` of every block, ascending; all of them together are `0..n_rows`.
    pub fn new(n_rows: usize, rows: Vec<Vec<usize>>) -> Self {
        let mut place = vec![(0, 0); n_rows];
        for (number, block) in rows.iter().enumerate() {
            for (k, &row) in block.iter().enumerate() {
                place[row] = (number, k);
            }
        }
        Self { rows, place }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Vec<usize>> {
        self.rows.iter()
    }

    pub fn rows(&self, block: usize) -> &[usize] {
        &self.rows[block]
    }

    /// Block of a row, and its place there.
    pub fn place(&self, row: usize) -> (usize, usize) {
        self.place[row]
    }

    pub fn n_rows(&self) -> usize {
        self.place.len()
    }
}

/// Symmetric matrix of which only the blocks are kept.
#[derive(Clone, Debug)]
pub struct BlockMatrix {
    blocks: Blocks,
    parts: Vec<Matrix>,
}

impl BlockMatrix {
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    pub fn part(&self, block: usize) -> &Matrix {
        &self.parts[block]
    }

    pub fn get(&self, i: usize, j: usize) -> f64 {
        let ((block, k), (other, l)) = (self.blocks.place[i], self.blocks.place[j]);
        if block == other {
            self.parts[block].get(k, l)
        } else {
            0.0
        }
    }

    /// The rows and columns at `index`.
    pub fn select(&self, index: &[usize]) -> Matrix {
        let mut chosen = Matrix::zeros(index.len(), index.len());
        for (j, &column) in index.iter().enumerate() {
            for (i, &row) in index.iter().enumerate() {
                chosen.set(i, j, self.get(row, column));
            }
        }
        chosen
    }

    /// Row `i` times a vector.
    pub fn row_times(&self, i: usize, vector: &[f64]) -> f64 {
        let (block, k) = self.blocks.place[i];
        self.parts[block]
            .column(k)
            .iter()
            .zip(&self.blocks.rows[block])
            .map(|(element, &row)| element * vector[row])
            .sum()
    }

    /// `A v`, shape (n_rows,).
    pub fn times_vector(&self, vector: &[f64]) -> Vec<f64> {
        let mut product = vec![0.0; self.blocks.n_rows()];
        for (rows, part) in self.blocks.rows.iter().zip(&self.parts) {
            let own: Vec<f64> = rows.iter().map(|&row| vector[row]).collect();
            for (&row, value) in rows.iter().zip(part.times_vector(&own)) {
                product[row] = value;
            }
        }
        product
    }

    /// All of it, zeros included.
    pub fn into_full(mut self) -> Matrix {
        if self.parts.len() == 1 {
            return self.parts.remove(0);
        }
        let n = self.blocks.n_rows();
        Matrix::from_columns(n, n, |j, column| {
            let (block, k) = self.blocks.place[j];
            for (&element, &row) in self.parts[block]
                .column(k)
                .iter()
                .zip(&self.blocks.rows[block])
            {
                column[row] = element;
            }
        })
    }
}

/// Factor of a symmetric positive definite matrix that is block diagonal after sorting its rows into blocks.
#[derive(Clone, Debug)]
pub struct BlockCholesky {
    blocks: Blocks,
    factors: Vec<Cholesky>,
}

impl BlockCholesky {
    /// Factorises the blocks, each made by `part` (its lower triangle is read) when its turn comes.
    ///
    /// None where a pivot is not above `relative_minimum` times its diagonal element, or at an interrupt.
    pub fn new(
        blocks: Blocks,
        relative_minimum: f64,
        interrupt: &Interrupt,
        mut part: impl FnMut(&[usize]) -> error::Result<Matrix>,
    ) -> error::Result<Option<Self>> {
        let mut factors = Vec::with_capacity(blocks.rows.len());
        for rows in &blocks.rows {
            let matrix = part(rows)?;
            let diagonal: Vec<f64> = (0..rows.len()).map(|k| matrix.get(k, k)).collect();
            let Ok(factor) = Cholesky::new(matrix, interrupt) else {
                return Ok(None);
            };
            let is_lost = factor
                .diagonal()
                .zip(diagonal)
                .any(|(pivot, variance)| pivot * pivot <= relative_minimum * variance);
            if is_lost {
                return Ok(None);
            }
            factors.push(factor);
        }
        Ok(Some(Self { blocks, factors }))
    }

    /// `ln det A`.
    pub fn log_determinant(&self) -> f64 {
        self.factors.iter().map(Cholesky::log_determinant).sum()
    }

    /// Factor of a block.
    pub fn factor(&self, block: usize) -> &Cholesky {
        &self.factors[block]
    }

    /// `L^-1 B`, in the order of the rows.
    pub fn solve_lower(&self, right: Matrix) -> Matrix {
        if let [factor] = self.factors.as_slice() {
            return factor.solve_lower(right);
        }
        let mut solution = Matrix::zeros(right.n_rows, right.n_columns);
        for (rows, factor) in self.blocks.rows.iter().zip(&self.factors) {
            let part = Matrix::from_columns(rows.len(), right.n_columns, |j, column| {
                for (element, &row) in column.iter_mut().zip(rows) {
                    *element = right.get(row, j);
                }
            });
            if part.data.iter().all(|element| *element == 0.0) {
                continue;
            }
            let part = factor.solve_lower(part);
            for j in 0..part.n_columns {
                let column = solution.column_mut(j);
                for (&element, &row) in part.column(j).iter().zip(rows) {
                    column[row] = element;
                }
            }
        }
        solution
    }

    /// `A^-1`, symmetric to the bit.
    pub fn inverse(&self, interrupt: &Interrupt) -> error::Result<BlockMatrix> {
        let parts = self
            .factors
            .iter()
            .map(|factor| factor.inverse(interrupt))
            .collect::<error::Result<_>>()?;
        Ok(BlockMatrix {
            blocks: self.blocks.clone(),
            parts,
        })
    }

    /// As `inverse`, where the factor is not needed any more.
    pub fn into_inverse(self, interrupt: &Interrupt) -> error::Result<BlockMatrix> {
        let parts = self
            .factors
            .into_iter()
            .map(|factor| factor.into_inverse(interrupt))
            .collect::<error::Result<_>>()?;
        Ok(BlockMatrix {
            blocks: self.blocks,
            parts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::KernelError;

    /// More than two panels, the last one not full.
    const N: usize = 300;

    /// An Ornstein-Uhlenbeck covariance with some noise.
    fn covariance() -> Matrix {
        Matrix::from_columns(N, N, |j, column| {
            for (i, element) in column.iter_mut().enumerate() {
                *element = (-(i.abs_diff(j) as f64) / 20.0).exp();
            }
            column[j] += 0.1;
        })
    }

    fn largest_difference(a: &Matrix, b: &Matrix) -> f64 {
        a.as_slice()
            .iter()
            .zip(b.as_slice())
            .fold(0.0, |largest, (x, y)| (x - y).abs().max(largest))
    }

    #[test]
    fn a_factor_and_an_inverse_of_several_panels_are_right() -> error::Result<()> {
        let never = Interrupt::default();
        let Ok(factor) = Cholesky::new(covariance(), &never) else {
            return Err(KernelError::NotPositiveDefinite(String::new()));
        };
        assert!(largest_difference(&factor.lower.outer(), &covariance()) < 1e-13);
        let product = factor.inverse(&never)?.times(&covariance());
        assert!(largest_difference(&product, &Matrix::identity(N)) < 1e-12);
        Ok(())
    }

    #[test]
    fn the_first_pivot_that_is_not_positive_is_named() {
        for row in [0, 127, 128, 290] {
            let mut matrix = covariance();
            matrix.set(row, row, -1.0);
            assert_eq!(
                Cholesky::new(matrix, &Interrupt::default()).err(),
                Some(row)
            );
        }
    }

    #[test]
    fn a_folded_matrix_has_the_same_quadratic_form() {
        let matrix = Matrix::from_columns(N, N, |j, column| {
            for (i, element) in column.iter_mut().enumerate() {
                *element = ((i * j) as f64 * 0.7 + (i + j) as f64).sin();
            }
        });
        let vectors = Matrix::from_columns(N, 5, |j, column| {
            for (i, element) in column.iter_mut().enumerate() {
                *element = ((i + 3 * j) as f64 * 0.3).cos();
            }
        });
        let full = matrix.times(&vectors);
        let folded = matrix.folded().lower_times(&vectors);
        for j in 0..5 {
            let (a, b) = (
                dot(vectors.column(j), full.column(j)),
                dot(vectors.column(j), folded.column(j)),
            );
            assert!((a - b).abs() < 1e-10, "{a} is not {b}");
        }
    }

    #[test]
    fn an_interrupt_stops_both() {
        let interrupt = Interrupt::default();
        let factor = Cholesky::new(covariance(), &interrupt);
        interrupt.raise();
        assert_eq!(Cholesky::new(covariance(), &interrupt).err(), Some(0));
        assert_eq!(
            factor.map(|factor| factor.inverse(&interrupt)).ok(),
            Some(Err(KernelError::Interrupted))
        );
    }
}
