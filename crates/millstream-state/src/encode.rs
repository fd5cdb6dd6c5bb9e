//! Key columns as compact values that can be hashed and compared.
//!
//! Two keys are the same where GROUP BY calls them the same: NULLs are equal, `-0.0` equals `0.0`, a NaN
//! equals a NaN of the same bits, and a string equals itself in every encoding.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, Float16Array, Float32Array, Float64Array, GenericBinaryArray, OffsetSizeTrait,
    cast::AsArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use arrow::row::{RowConverter, Rows, SortField};
use millstream_core::{Error, Result};

/// Fixed-width keys of several columns are packed where they take at most so many bytes.
const PACKED_BYTES_MAX: usize = 40;

/// How the keys of a table are encoded: decided once, by their types.
#[derive(Debug)]
pub(crate) enum KeyEncoder {
    /// One column of at most 8 bytes.
    Word,
    /// Up to eight columns of fixed width, packed after one byte of null flags; also no column at all.
    Packed {
        /// Bytes of each column.
        widths: Vec<usize>,
        /// Bytes of a key.
        stride: usize,
    },
    /// One column of strings or bytes.
    Text,
    /// Anything else, in Arrow's row format.
    Row(RowConverter),
}

/// The keys of one call.
#[derive(Debug)]
pub(crate) enum EncodedKeys {
    Words(Words),
    Packed(Packed),
    Bytes(ByteKeys),
}

/// Keys of at most 8 bytes.
#[derive(Debug)]
pub(crate) struct Words {
    values: Vec<u64>,
    nulls: Option<NullBuffer>,
}

impl Words {
    #[inline]
    pub(crate) fn get(&self, row: usize) -> Option<u64> {
        if self.nulls.as_ref().is_some_and(|n| n.is_null(row)) {
            return None;
        }
        self.values.get(row).copied()
    }
}

/// Keys of one width.
#[derive(Debug)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    stride: usize,
}

impl Packed {
    #[inline]
    pub(crate) fn get(&self, row: usize) -> &[u8] {
        let start = row * self.stride;
        self.bytes.get(start..start + self.stride).unwrap_or_default()
    }
}

/// Keys of any length.
#[derive(Debug)]
pub(crate) enum ByteKeys {
    Small(GenericBinaryArray<i32>),
    Large(GenericBinaryArray<i64>),
    View(BinaryViewArray),
    Rows(Rows),
}

impl ByteKeys {
    /// The key; `None` where it is NULL.
    #[inline]
    pub(crate) fn get(&self, row: usize) -> Option<&[u8]> {
        match self {
            Self::Small(a) => (!a.is_null(row)).then(|| a.value(row)),
            Self::Large(a) => (!a.is_null(row)).then(|| a.value(row)),
            Self::View(a) => (!a.is_null(row)).then(|| a.value(row)),
            Self::Rows(rows) => Some(rows.row(row).data()),
        }
    }
}

impl KeyEncoder {
    /// The encoder of keys of these types (types as they are stored: no dictionaries).
    pub(crate) fn new(types: &[DataType]) -> Result<Self> {
        let widths: Option<Vec<usize>> = types.iter().map(fixed_width).collect();
        if let Some(widths) = widths {
            let stride = usize::from(!widths.is_empty()) + widths.iter().sum::<usize>();
            return match widths.as_slice() {
                [width] if *width <= 8 => Ok(Self::Word),
                _ if widths.len() <= 8 && stride <= PACKED_BYTES_MAX => Ok(Self::Packed { widths, stride }),
                _ => Self::row(types),
            };
        }
        use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Utf8, Utf8View};
        match types {
            [Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView] => Ok(Self::Text),
            _ => Self::row(types),
        }
    }

    fn row(types: &[DataType]) -> Result<Self> {
        let fields = types.iter().map(|t| SortField::new(t.clone())).collect();
        let converter = RowConverter::new(fields)
            .map_err(|e| Error::query(format!("state cannot be keyed by columns of types {types:?}")).caused_by(e))?;
        Ok(Self::Row(converter))
    }

    /// Encodes keys. The columns have the encoder's types and hold `rows` rows each.
    pub(crate) fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<EncodedKeys> {
        match (self, columns) {
            (Self::Word, [column]) => {
                Ok(EncodedKeys::Words(Words { values: words(column)?, nulls: column.logical_nulls() }))
            }
            (Self::Packed { widths, stride }, _) => {
                Ok(EncodedKeys::Packed(Packed { bytes: pack(columns, widths, *stride, rows)?, stride: *stride }))
            }
            (Self::Text, [column]) => Ok(EncodedKeys::Bytes(text(column)?)),
            (Self::Row(converter), _) => {
                let canonical: Vec<ArrayRef> = columns.iter().map(unsign_zero).collect();
                Ok(EncodedKeys::Bytes(ByteKeys::Rows(converter.convert_columns(&canonical)?)))
            }
            _ => Err(Error::bug(format!("{} key columns do not fit the table's encoding {self:?}", columns.len()))),
        }
    }
}

fn fixed_width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Boolean => Some(1),
        other => other.primitive_width().filter(|w| *w <= 16),
    }
}

/// The values of a fixed-width column, widened; `-0.0` is `0.0`.
fn words(column: &ArrayRef) -> Result<Vec<u64>> {
    if let Some(bools) = column.as_boolean_opt() {
        return Ok(bools.values().iter().map(u64::from).collect());
    }
    let column = unsign_zero(column);
    let data = column.to_data();
    let len = column.len();
    Ok(match fixed_width(column.data_type()) {
        Some(1) => data.buffer::<u8>(0).iter().take(len).map(|v| u64::from(*v)).collect(),
        Some(2) => data.buffer::<u16>(0).iter().take(len).map(|v| u64::from(*v)).collect(),
        Some(4) => data.buffer::<u32>(0).iter().take(len).map(|v| u64::from(*v)).collect(),
        Some(8) => data.buffer::<u64>(0).iter().take(len).copied().collect(),
        _ => return Err(Error::bug(format!("a key of type {} is no word", column.data_type()))),
    })
}

/// One byte of null flags, then the columns, little-endian; a NULL is zeros.
fn pack(columns: &[ArrayRef], widths: &[usize], stride: usize, rows: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0u8; rows * stride];
    if columns.is_empty() {
        return Ok(bytes);
    }
    let mut at = 1;
    for (c, (column, width)) in columns.iter().zip(widths).enumerate() {
        let keys = bytes.chunks_exact_mut(stride).map(|key| key.get_mut(at..at + width).unwrap_or_default());
        match *width {
            16 => {
                let data = column.to_data();
                let values = data.buffers().first().and_then(|b| b.get(data.offset() * 16..)).unwrap_or_default();
                keys.zip(values.as_chunks::<16>().0).for_each(|(to, value)| write(to, value));
            }
            8 => keys.zip(words(column)?).for_each(|(to, value)| write(to, &value.to_le_bytes())),
            4 => keys.zip(words(column)?).for_each(|(to, value)| write(to, &(value as u32).to_le_bytes())),
            2 => keys.zip(words(column)?).for_each(|(to, value)| write(to, &(value as u16).to_le_bytes())),
            _ => keys.zip(words(column)?).for_each(|(to, value)| write(to, &[value as u8])),
        }
        if let Some(nulls) = column.logical_nulls() {
            for key in bytes.chunks_exact_mut(stride).zip(nulls.iter()).filter(|(_, valid)| !valid).map(|(key, _)| key)
            {
                if let Some(flags) = key.first_mut() {
                    *flags |= 1 << c;
                }
                key.get_mut(at..at + width).unwrap_or_default().fill(0);
            }
        }
        at += width;
    }
    Ok(bytes)
}

/// A value of a width that the compiler knows: one store, and no call.
#[inline]
fn write<const N: usize>(to: &mut [u8], value: &[u8; N]) {
    if let Ok(to) = <&mut [u8; N]>::try_from(to) {
        *to = *value;
    }
}

fn text(column: &ArrayRef) -> Result<ByteKeys> {
    fn bytes<O: OffsetSizeTrait>(column: &ArrayRef) -> GenericBinaryArray<O> {
        match column.as_string_opt::<O>() {
            Some(text) => GenericBinaryArray::from(text.clone()),
            None => column.as_binary::<O>().clone(),
        }
    }
    Ok(match column.data_type() {
        DataType::Utf8 | DataType::Binary => ByteKeys::Small(bytes(column)),
        DataType::LargeUtf8 | DataType::LargeBinary => ByteKeys::Large(bytes(column)),
        DataType::Utf8View => ByteKeys::View(column.as_string_view().clone().to_binary_view()),
        DataType::BinaryView => ByteKeys::View(column.as_binary_view().clone()),
        other => return Err(Error::bug(format!("a key of type {other} is no text"))),
    })
}

/// The same column with `0.0` for every `-0.0`.
fn unsign_zero(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float16 => {
            let floats: Float16Array = column
                .as_primitive::<Float16Type>()
                .unary(|v| if v.to_bits() << 1 == 0 { Default::default() } else { v });
            Arc::new(floats)
        }
        DataType::Float32 => {
            let floats: Float32Array = column.as_primitive::<Float32Type>().unary(|v| if v == 0.0 { 0.0 } else { v });
            Arc::new(floats)
        }
        DataType::Float64 => {
            let floats: Float64Array = column.as_primitive::<Float64Type>().unary(|v| if v == 0.0 { 0.0 } else { v });
            Arc::new(floats)
        }
        _ => Arc::clone(column),
    }
}
