//! The everyday functions of Flink and Spark that DataFusion has not.
//!
//! What has DataFusion's name keeps DataFusion's meaning; what DataFusion has under another name, or in another
//! form, is put into that form by the parser ([`super::parser`]). Each function here says which arguments it takes,
//! so that a wrong one is refused where it is planned, by name. All of them are functions of their arguments alone:
//! none may look at a clock, a counter or the row before. docs/functions.md lists them.

mod calendar;
mod collection;
mod datetime;
mod digest;
mod json;
mod pattern;
mod rows;
mod text;
mod url;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::window::PROCESSING_TIME_KEY;

/// Adds all functions of this room, and those over JSON.
///
/// # Errors
/// Where DataFusion refuses one: a bug.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    let rooms = [
        calendar::functions(),
        collection::functions(),
        datetime::functions(),
        digest::functions(),
        json::functions(),
        text::functions(),
        url::functions(),
    ];
    for function in rooms.into_iter().flatten() {
        registry.register_udf(Arc::new(ScalarUDF::from(function)))?;
    }
    registry.register_udf(Arc::new(ScalarUDF::from(ProcessingTime::default())))?;
    registry.register_udf(Arc::new(ScalarUDF::from(super::as_of::AsOfTime::default())))?;
    json::register(registry)
}

/// Why a function that Flink has is refused, and what works.
pub fn refusal(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "session" | "session_start" | "session_end" | "session_rowtime" => {
            "SESSION goes into FROM: FROM SESSION(TABLE table PARTITION BY key, DESCRIPTOR(time), INTERVAL '10' SECOND) .. \
             GROUP BY key, window_start, window_end"
        }
        "tumble" | "tumble_start" | "tumble_end" | "tumble_rowtime" => {
            "TUMBLE goes into FROM: FROM TUMBLE(table, time, INTERVAL '10' SECOND) .. GROUP BY \
             window_start, window_end"
        }
        "hop" | "hop_start" | "hop_end" | "hop_rowtime" => {
            "HOP goes into FROM: FROM HOP(table, time, INTERVAL '2' SECOND, INTERVAL '10' SECOND) .. \
             GROUP BY window_start, window_end"
        }
        "cumulate" => "CUMULATE goes into FROM: FROM CUMULATE(table, time, INTERVAL '1' HOUR, INTERVAL '1' DAY)",
        "collect" => "COLLECT answers a MULTISET, a type that does not exist here: use COLLECT_LIST or COLLECT_SET",
        "explode" | "explode_outer" | "posexplode" => {
            "a row for each element is UNNEST: SELECT UNNEST(elements) AS element FROM .."
        }
        "json_arrayagg" | "json_objectagg" => {
            "JSON is built of one row: collect with COLLECT_LIST, and write the list to a table of format json"
        }
        "from_json" | "to_json" | "json_tuple" => {
            "take values out of JSON with JSON_VALUE, JSON_QUERY or ->>, and build it with JSON_OBJECT and JSON_ARRAY"
        }
        "json_get" => {
            "json_get has another type in each row: use json_get_str, json_get_int, json_get_float, json_get_bool or ->>"
        }
        "rand_integer" | "randn" | "monotonically_increasing_id" | "uuid_short" => {
            "it gives another value each time, and a batch that is run again would give other rows: derive the value \
             from the row, for example md5(..) of its key columns"
        }
        "current_watermark" => "the watermark is no column here: it is shown by the metrics and the console",
        "current_row_timestamp" => "the clock is read once a batch: use CURRENT_TIMESTAMP, which is the batch's time",
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
    /// A timestamp or a date, each as it is; text that is a timestamp becomes one.
    TimeOrDate,
    /// A date, as `Date32`; a timestamp, or text that is one, becomes one.
    Date,
    /// Bytes, as `BinaryView`; text is its UTF-8.
    Bytes,
    /// True or false.
    Boolean,
    /// Text or numbers, each as it is.
    Any,
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
            Self::TimeOrDate => match from {
                DataType::Date32 | DataType::Date64 => Some(DataType::Date32),
                _ => Self::Time.coerce(from),
            },
            Self::Date => {
                let time = matches!(from, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..));
                (time || text).then_some(DataType::Date32)
            }
            Self::Bytes => (text || from.is_binary()).then_some(DataType::BinaryView),
            Self::Boolean => matches!(from, DataType::Boolean | DataType::Null).then_some(DataType::Boolean),
            Self::Any => Some(from.clone()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "a whole number",
            Self::Time => "a timestamp",
            Self::TimeOrDate => "a timestamp or a date",
            Self::Date => "a date",
            Self::Bytes => "text or bytes",
            Self::Boolean => "a condition",
            Self::Any => "a value",
        }
    }
}

/// What a function answers.
enum Returns {
    Fixed(DataType),
    /// It follows from the arguments' types.
    Of(fn(&[DataType]) -> Result<DataType>),
}

impl From<DataType> for Returns {
    fn from(data_type: DataType) -> Self {
        Self::Fixed(data_type)
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
    /// How many of the arguments, from the end, may follow again and again.
    repeated: usize,
    returns: Returns,
    call: Call,
    /// Looks at the arguments that are constants when the call is planned.
    check: Option<Check>,
    signature: Signature,
}

impl Builtin {
    fn new(name: &'static str, arguments: &'static [Argument], returns: impl Into<Returns>, call: Call) -> Self {
        let signature = Signature::user_defined(Volatility::Immutable);
        Self { name, arguments, optional: 0, repeated: 0, returns: returns.into(), call, check: None, signature }
    }

    fn repeated(mut self, count: usize) -> Self {
        self.repeated = count;
        self
    }

    /// What the n-th argument must be.
    fn argument(&self, n: usize) -> Argument {
        let count = self.arguments.len();
        let n = match n.checked_sub(count) {
            Some(over) if self.repeated > 0 => count - self.repeated + over % self.repeated,
            _ => n,
        };
        self.arguments.get(n).copied().unwrap_or(Argument::Any)
    }

    fn answer_type(&self, given: &[DataType]) -> Result<DataType> {
        match &self.returns {
            Returns::Fixed(data_type) => Ok(data_type.clone()),
            Returns::Of(answer) => answer(given),
        }
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
        let over = given.len().saturating_sub(count);
        let fits = over == 0 || (self.repeated > 0 && over.is_multiple_of(self.repeated));
        if !fits || given.len() + self.optional < count {
            return plan_err!("'{}' takes other arguments: {}", self.name.to_uppercase(), self.form());
        }
        let coerced = given.iter().enumerate().map(|(n, from)| match self.argument(n).coerce(from) {
            Some(to) => Ok(to),
            None => plan_err!(
                "'{}' takes {} where it is given {from}: {}",
                self.name.to_uppercase(),
                self.argument(n).name(),
                self.form()
            ),
        });
        coerced.collect()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.answer_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        if let Some(check) = self.check {
            check(args.scalar_arguments)?;
        }
        let given: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        Ok(Arc::new(Field::new(self.name, self.answer_type(&given)?, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let mut arrays = ColumnarValue::values_to_arrays(&args.args)?;
        for (n, array) in arrays.iter_mut().enumerate() {
            let argument = self.argument(n);
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
