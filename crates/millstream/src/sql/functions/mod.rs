//! Flink's functions that DataFusion has not, or has under another name with another meaning.
//!
//! Functions of DataFusion's own names keep DataFusion's meaning. Each function here says which arguments it
//! takes, so that a wrong one is refused where it is planned, by name.

mod datetime;
mod pattern;
mod text;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The metadata key of a column that is PROCTIME(): no window over it can close by a watermark.
pub const PROCESSING_TIME_KEY: &str = "millstream.processing-time";

/// All functions of this room.
pub fn all() -> Vec<ScalarUDF> {
    let functions = datetime::functions().into_iter().chain(text::functions());
    functions.map(ScalarUDF::from).chain([ScalarUDF::from(ProcessingTime::default())]).collect()
}

/// Why a function that Flink has is refused, and what works.
pub fn refusal(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "session" | "session_start" | "session_end" | "session_rowtime" => {
            "SESSION windows are not supported yet: TUMBLE, HOP and CUMULATE in FROM are"
        }
        "tumble" | "tumble_start" | "tumble_end" | "tumble_rowtime" => {
            "TUMBLE goes into FROM, not into GROUP BY: FROM TUMBLE(table, time, INTERVAL '10' SECOND) .. GROUP BY \
             window_start, window_end"
        }
        "hop" | "hop_start" | "hop_end" | "hop_rowtime" => {
            "HOP goes into FROM, not into GROUP BY: FROM HOP(table, time, INTERVAL '2' SECOND, INTERVAL '10' SECOND) .. \
             GROUP BY window_start, window_end"
        }
        "cumulate" => "CUMULATE goes into FROM: FROM CUMULATE(table, time, INTERVAL '1' HOUR, INTERVAL '1' DAY)",
        _ => return None,
    })
}

/// What an argument must be, and what it is turned into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Argument {
    /// Text, as `Utf8View`.
    Text,
    /// A whole number, as `Int64`.
    Integer,
    /// A timestamp; a date, or text that is one, becomes one.
    Time,
}

impl Argument {
    fn coerce(self, from: &DataType) -> Option<DataType> {
        let text = matches!(from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null);
        match self {
            Self::Text => match from {
                DataType::Dictionary(_, value) => self.coerce(value),
                _ => text.then_some(DataType::Utf8View),
            },
            Self::Integer => (from.is_integer() || *from == DataType::Null).then_some(DataType::Int64),
            Self::Time => match from {
                DataType::Timestamp(..) => Some(from.clone()),
                DataType::Date32 | DataType::Date64 => Some(DataType::Timestamp(TimeUnit::Microsecond, None)),
                _ => text.then_some(DataType::Timestamp(TimeUnit::Microsecond, None)),
            },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "a whole number",
            Self::Time => "a timestamp",
        }
    }
}

type Call = fn(&[ArrayRef]) -> Result<ArrayRef>;
type Check = fn(&[Option<&ScalarValue>]) -> Result<()>;

/// A function of its arguments alone, computed over whole arrays.
struct Builtin {
    name: &'static str,
    arguments: &'static [Argument],
    /// How many of the arguments may be left out, from the end.
    optional: usize,
    returns: DataType,
    call: Call,
    /// Looks at the arguments that are constants when the call is planned.
    check: Option<Check>,
    signature: Signature,
}

impl Builtin {
    fn new(name: &'static str, arguments: &'static [Argument], returns: DataType, call: Call) -> Self {
        let signature = Signature::user_defined(Volatility::Immutable);
        Self { name, arguments, optional: 0, returns, call, check: None, signature }
    }

    fn optional(mut self, count: usize) -> Self {
        self.optional = count;
        self
    }

    fn checked(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    fn form(&self) -> String {
        let names: Vec<_> = self.arguments.iter().map(|a| a.name()).collect();
        format!("{}({})", self.name.to_uppercase(), names.join(", "))
    }
}

impl fmt::Debug for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builtin").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PartialEq for Builtin {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Builtin {}

impl Hash for Builtin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Builtin {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let count = self.arguments.len();
        if given.len() > count || given.len() + self.optional < count {
            return plan_err!("'{}' takes other arguments: {}", self.name.to_uppercase(), self.form());
        }
        let coerced = given.iter().zip(self.arguments).map(|(from, argument)| match argument.coerce(from) {
            Some(to) => Ok(to),
            None => plan_err!(
                "'{}' takes {} where it is given {from}: {}",
                self.name.to_uppercase(),
                argument.name(),
                self.form()
            ),
        });
        coerced.collect()
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        if let Some(check) = self.check {
            check(args.scalar_arguments)?;
        }
        Ok(Arc::new(Field::new(self.name, self.returns.clone(), true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let mut arrays = ColumnarValue::values_to_arrays(&args.args)?;
        for (array, argument) in arrays.iter_mut().zip(self.arguments) {
            match argument.coerce(array.data_type()) {
                Some(to) if to != *array.data_type() => *array = cast(array, &to)?,
                Some(_) => {}
                None => return exec_err!("'{}' takes {}", self.name.to_uppercase(), argument.name()),
            }
        }
        let answer = (self.call)(&arrays)?;
        Ok(match constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&answer, 0)?),
            false => ColumnarValue::Array(answer),
        })
    }
}

/// PROCTIME(): the time of the batch. The plan room binds it; it is never called.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ProcessingTime {
    signature: Signature,
    aliases: Vec<String>,
}

impl Default for ProcessingTime {
    fn default() -> Self {
        Self { signature: Signature::nullary(Volatility::Stable), aliases: vec!["proctime".to_string()] }
    }
}

impl ScalarUDFImpl for ProcessingTime {
    fn name(&self) -> &str {
        "PROCTIME"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())))
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = Field::new(self.name(), self.return_type(&[])?, false);
        Ok(Arc::new(field.with_metadata([(PROCESSING_TIME_KEY.to_string(), "true".to_string())].into())))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("PROCTIME() was not bound to the time of the batch")
    }
}
