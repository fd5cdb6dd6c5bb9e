//! Windows over event time: their arithmetic, and the logical node that puts a table into windows.
//!
//! All arithmetic is in microseconds since 1970-01-01 UTC, in `i64`, with floor division, so that times
//! before 1970 fall into the right window. A window is `[start, end)`. A *pane* is the longest stretch of
//! time whose rows always share their windows: the unit in which state is kept and dropped.
//!
//! The functions here are pure; near the ends of the `i64` range they saturate instead of wrapping. What a
//! window means must be read from here and from [`WindowColumn`], never guessed from an expression.

mod dedup;
mod session;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;

use arrow::datatypes::{DataType, TimeUnit};
use millstream_core::{Error, Result};
use serde::{Deserialize, Serialize};

pub use dedup::Dedup;
pub use session::SessionTable;
pub use table::{
    EPOCH_KEY, EVENT_TIME_KEY, PROCESSING_TIME_KEY, WATERMARK_KEY, WINDOW_KEY, WindowColumn, WindowPart, WindowTable,
    is_event_time, is_processing_time, micros_from, micros_to, orders_windows, watermark_delay, with_watermark,
};

/// A row is in so many windows at the most: each of them is held, and answered.
const WINDOWS_A_ROW_MAX: i64 = 100_000;

/// How windows follow each other. Lengths are in microseconds and positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowKind {
    /// One after the other: every row is in one window.
    Tumble {
        /// The length of a window.
        size_us: i64,
    },
    /// A window of `size_us` begins every `slide_us`; `slide_us <= size_us`.
    Hop {
        /// From the start of a window to the start of the next.
        slide_us: i64,
        /// The length of a window.
        size_us: i64,
    },
    /// Windows that share their start and end every `step_us`, up to `size_us`, a multiple of the step.
    Cumulate {
        /// From the end of a window to the end of the next.
        step_us: i64,
        /// The length of the longest window.
        size_us: i64,
    },
    /// Rows that follow each other by at most a gap. Which windows there are depends on the rows: the arithmetic
    /// here is that of a row alone, whose window is one gap long; sessions grow by [`SessionTable`].
    Session {
        /// The gap that ends a session.
        gap_us: i64,
    },
}

/// Windows: their kind, and how far their starts are moved from 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WindowSpec {
    /// How they follow each other.
    #[serde(flatten)]
    pub kind: WindowKind,
    /// How far every window is moved later, in microseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset_us: i64,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

impl WindowSpec {
    /// Tumbling windows.
    pub fn tumble(size_us: i64) -> Self {
        Self { kind: WindowKind::Tumble { size_us }, offset_us: 0 }
    }

    /// Hopping windows.
    pub fn hop(slide_us: i64, size_us: i64) -> Self {
        Self { kind: WindowKind::Hop { slide_us, size_us }, offset_us: 0 }
    }

    /// Cumulating windows.
    pub fn cumulate(step_us: i64, size_us: i64) -> Self {
        Self { kind: WindowKind::Cumulate { step_us, size_us }, offset_us: 0 }
    }

    /// The same windows, moved later.
    pub fn with_offset(mut self, offset_us: i64) -> Self {
        self.offset_us = offset_us;
        self
    }

    /// The same windows, if they are any: everything else here counts on it.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] that says which length does not fit.
    pub fn checked(self) -> Result<Self> {
        let few = |what: &str, us: i64, size_us: i64| match size_us / us <= WINDOWS_A_ROW_MAX {
            true => Ok(()),
            false => Err(Error::query(format!(
                "a row would be in {} windows, and {WINDOWS_A_ROW_MAX} are the most: choose a longer {what} than {}",
                size_us / us,
                Length(us)
            ))),
        };
        let positive = |what: &str, us: i64| match us > 0 {
            true => Ok(()),
            false => Err(Error::query(format!("the {what} of a window must be longer than zero"))),
        };
        match self.kind {
            WindowKind::Tumble { size_us } => positive("size", size_us)?,
            WindowKind::Hop { slide_us, size_us } => {
                positive("slide", slide_us)?;
                positive("size", size_us)?;
                if slide_us > size_us {
                    return Err(Error::query(format!(
                        "the slide ({}) is longer than the size ({}), so that rows would fall between the windows: \
                         HOP takes the slide first, then the size",
                        Length(slide_us),
                        Length(size_us)
                    )));
                }
                few("slide", slide_us, size_us)?;
            }
            WindowKind::Session { gap_us } => positive("gap", gap_us)?,
            WindowKind::Cumulate { step_us, size_us } => {
                positive("step", step_us)?;
                positive("maximal size", size_us)?;
                if size_us % step_us != 0 {
                    return Err(Error::query(format!(
                        "the maximal size ({}) is no multiple of the step ({}): CUMULATE takes the step first, then \
                         the size",
                        Length(size_us),
                        Length(step_us)
                    )));
                }
                few("step", step_us, size_us)?;
            }
        }
        Ok(self)
    }

    /// The length of a window; of the longest one where they cumulate.
    pub fn size_us(&self) -> i64 {
        match self.kind {
            WindowKind::Tumble { size_us } | WindowKind::Hop { size_us, .. } | WindowKind::Cumulate { size_us, .. } => {
                size_us
            }
            WindowKind::Session { gap_us } => gap_us,
        }
    }

    /// The length of a pane. It divides every distance between the borders of windows.
    pub fn pane_us(&self) -> i64 {
        match self.kind {
            WindowKind::Tumble { size_us } => size_us,
            WindowKind::Hop { slide_us, size_us } => gcd(slide_us, size_us),
            WindowKind::Cumulate { step_us, .. } => step_us,
            WindowKind::Session { .. } => 1,
        }
    }

    /// The start of the pane that holds this time.
    pub fn pane_of(&self, ts_us: i64) -> i64 {
        self.floor(ts_us, self.pane_us())
    }

    /// The windows that hold this time, as `(start, end)`: by start where they hop, by end where they cumulate.
    pub fn windows_of(&self, ts_us: i64) -> impl Iterator<Item = (i64, i64)> + Clone + use<> {
        let (first, last) = (self.first_end(ts_us), self.last_end(ts_us));
        let (stride, size, start) = match self.kind {
            WindowKind::Tumble { size_us } => (size_us, Some(size_us), 0),
            WindowKind::Hop { slide_us, size_us } => (slide_us, Some(size_us), 0),
            WindowKind::Cumulate { step_us, size_us } => (step_us, None, self.floor(ts_us, size_us)),
            WindowKind::Session { gap_us } => (gap_us, Some(gap_us), 0),
        };
        let count = last.saturating_sub(first) / stride.max(1) + 1;
        (0..count).map(move |n| {
            let end = first.saturating_add(n.saturating_mul(stride));
            (size.map_or(start, |size| end.saturating_sub(size)), end)
        })
    }

    /// The windows that hold the rows of a pane.
    pub fn windows_of_pane(&self, pane_start_us: i64) -> impl Iterator<Item = (i64, i64)> + Clone + use<> {
        self.windows_of(pane_start_us)
    }

    /// The end of the earliest window that holds this time: once the watermark has reached it, a row of
    /// this time is late.
    pub fn first_end(&self, ts_us: i64) -> i64 {
        match self.kind {
            WindowKind::Tumble { size_us } => self.floor(ts_us, size_us).saturating_add(size_us),
            WindowKind::Hop { slide_us, size_us } => {
                let before = self.floor(ts_us.saturating_sub(size_us), slide_us);
                before.saturating_add(slide_us).saturating_add(size_us)
            }
            WindowKind::Cumulate { step_us, .. } => self.floor(ts_us, step_us).saturating_add(step_us),
            WindowKind::Session { gap_us } => ts_us.saturating_add(gap_us),
        }
    }

    /// The end of the last window that holds this time, or the rows of the pane that begins there: once the
    /// watermark has reached it, the pane can be dropped.
    pub fn last_end(&self, ts_us: i64) -> i64 {
        match self.kind {
            WindowKind::Tumble { size_us } | WindowKind::Cumulate { size_us, .. } => {
                self.floor(ts_us, size_us).saturating_add(size_us)
            }
            WindowKind::Hop { slide_us, size_us } => self.floor(ts_us, slide_us).saturating_add(size_us),
            WindowKind::Session { gap_us } => ts_us.saturating_add(gap_us),
        }
    }

    /// How long after its `window_time`, as a timestamp of this type holds it, a window ends, in microseconds. `None`
    /// where that is not the same for all of them.
    ///
    /// `window_time` is a millisecond before the end, rounded down to what the type can hold.
    pub fn after_time_us(&self, data_type: &DataType) -> Option<i64> {
        const SECOND: i64 = 1_000_000;
        if !matches!(data_type, DataType::Timestamp(TimeUnit::Second, _)) {
            return Some(1000);
        }
        let lengths = match self.kind {
            WindowKind::Tumble { size_us } => [size_us, 0],
            WindowKind::Hop { slide_us, size_us } => [slide_us, size_us],
            WindowKind::Cumulate { step_us, size_us } => [step_us, size_us],
            WindowKind::Session { gap_us } => [gap_us, 0],
        };
        lengths.iter().chain([&self.offset_us]).all(|us| us % SECOND == 0).then_some(SECOND)
    }

    /// The largest time not after `ts_us` that is a whole number of `unit_us` from the offset.
    fn floor(&self, ts_us: i64, unit_us: i64) -> i64 {
        let unit = unit_us.max(1);
        // Only where the offset lies within the unit matters; so reduced, the subtraction below can't
        // leave the range for any time that a timestamp can hold sensibly.
        let past = ts_us.saturating_sub(self.offset_us.rem_euclid(unit)).rem_euclid(unit);
        ts_us.saturating_sub(past)
    }
}

fn gcd(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

impl fmt::Display for WindowSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            WindowKind::Tumble { size_us } => write!(f, "TUMBLE({}", Length(size_us))?,
            WindowKind::Hop { slide_us, size_us } => {
                write!(f, "HOP(slide {}, size {}", Length(slide_us), Length(size_us))?;
            }
            WindowKind::Cumulate { step_us, size_us } => {
                write!(f, "CUMULATE(step {}, size {}", Length(step_us), Length(size_us))?;
            }
            WindowKind::Session { gap_us } => write!(f, "SESSION(gap {}", Length(gap_us))?,
        }
        if self.offset_us != 0 {
            write!(f, ", offset {}", Length(self.offset_us))?;
        }
        f.write_str(")")
    }
}

/// A length of time in microseconds, shown in the largest unit that divides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length(pub i64);

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(i64, &str); 5] =
            [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"), (1_000, "ms")];
        let unit = UNITS.iter().find(|(us, _)| self.0 != 0 && self.0 % us == 0);
        let (us, name) = unit.copied().unwrap_or((1, "us"));
        write!(f, "{} {name}", self.0 / us)
    }
}
