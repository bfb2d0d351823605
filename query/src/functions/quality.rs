//! `severity(quality)` and `quality_name(quality)`: what an OPC UA StatusCode says.
//!
//! Names are those of OPC UA Part 4, 7.39 and Part 8, 6.3.2, for the codes that samples carry in practice. Flags in the
//! low half do not change a name. A code without one here shows as severity and number.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, StringViewArray, StringViewBuilder};
use datafusion::arrow::datatypes::{DataType, UInt32Type};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use tagmill_storage::Quality;

/// High half of a code, and its name. Ascending.
const NAMES: &[(u16, &str)] = &[
    (0x0000, "Good"),
    (0x002D, "GoodSubscriptionTransferred"),
    (0x002E, "GoodCompletesAsynchronously"),
    (0x002F, "GoodOverload"),
    (0x0030, "GoodClamped"),
    (0x0096, "GoodLocalOverride"),
    (0x00A2, "GoodEntryInserted"),
    (0x00A3, "GoodEntryReplaced"),
    (0x00A5, "GoodNoData"),
    (0x00A6, "GoodMoreData"),
    (0x00A7, "GoodCommunicationEvent"),
    (0x00A8, "GoodShutdownEvent"),
    (0x00A9, "GoodCallAgain"),
    (0x00AA, "GoodNonCriticalTimeout"),
    (0x00BA, "GoodResultsMayBeIncomplete"),
    (0x00D9, "GoodDataIgnored"),
    (0x00DC, "GoodEdited"),
    (0x4000, "Uncertain"),
    (0x408F, "UncertainNoCommunicationLastUsableValue"),
    (0x4090, "UncertainLastUsableValue"),
    (0x4091, "UncertainSubstituteValue"),
    (0x4092, "UncertainInitialValue"),
    (0x4093, "UncertainSensorNotAccurate"),
    (0x4094, "UncertainEngineeringUnitsExceeded"),
    (0x4095, "UncertainSubNormal"),
    (0x40A4, "UncertainDataSubNormal"),
    (0x8000, "Bad"),
    (0x8001, "BadUnexpectedError"),
    (0x8002, "BadInternalError"),
    (0x8003, "BadOutOfMemory"),
    (0x8004, "BadResourceUnavailable"),
    (0x8005, "BadCommunicationError"),
    (0x8006, "BadEncodingError"),
    (0x8007, "BadDecodingError"),
    (0x800A, "BadTimeout"),
    (0x800C, "BadShutdown"),
    (0x800D, "BadServerNotConnected"),
    (0x800E, "BadServerHalted"),
    (0x801F, "BadUserAccessDenied"),
    (0x8026, "BadSessionClosed"),
    (0x8031, "BadNoCommunication"),
    (0x8032, "BadWaitingForInitialData"),
    (0x8033, "BadNodeIdInvalid"),
    (0x8034, "BadNodeIdUnknown"),
    (0x8035, "BadAttributeIdInvalid"),
    (0x8036, "BadIndexRangeInvalid"),
    (0x8037, "BadIndexRangeNoData"),
    (0x803A, "BadNotReadable"),
    (0x803C, "BadOutOfRange"),
    (0x803D, "BadNotSupported"),
    (0x803E, "BadNotFound"),
    (0x803F, "BadObjectDeleted"),
    (0x8074, "BadTypeMismatch"),
    (0x8089, "BadConfigurationError"),
    (0x808A, "BadNotConnected"),
    (0x808B, "BadDeviceFailure"),
    (0x808C, "BadSensorFailure"),
    (0x808D, "BadOutOfService"),
    (0x809B, "BadNoData"),
    (0x809D, "BadDataLost"),
    (0x809E, "BadDataUnavailable"),
    (0x809F, "BadEntryExists"),
    (0x80A0, "BadNoEntryExists"),
    (0x80A1, "BadTimestampNotSupported"),
    (0x80AB, "BadInvalidArgument"),
    (0x80AC, "BadConnectionRejected"),
    (0x80AD, "BadDisconnect"),
    (0x80AE, "BadConnectionClosed"),
    (0x80AF, "BadInvalidState"),
    (0x80D7, "BadBoundNotFound"),
    (0x80D8, "BadBoundNotSupported"),
];

/// Which text of a code is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum QualityText {
    /// `severity`: Good, Uncertain or Bad.
    Severity,
    /// `quality_name`: the name of the code.
    Name,
}

/// A function of one code that gives text.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct QualityFunction {
    text: QualityText,
    signature: Signature,
}

impl QualityFunction {
    /// The function that gives `text`.
    pub(crate) fn new(text: QualityText) -> Self {
        Self { text, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// What it gives.
    pub(crate) const fn text(&self) -> QualityText {
        self.text
    }
}

impl ScalarUDFImpl for QualityFunction {
    fn name(&self) -> &'static str {
        match self.text {
            QualityText::Severity => "severity",
            QualityText::Name => "quality_name",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [code] if code.is_integer() || code.is_null() => Ok(vec![DataType::UInt32]),
            _ => plan_err!("{} takes one quality, a number", self.name()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let codes = match args.args.as_slice() {
            [codes] => codes.to_array(args.number_rows)?,
            _ => return exec_err!("{} takes one quality", self.name()),
        };
        let mut texts = StringViewBuilder::with_capacity(codes.len()).with_deduplicate_strings();
        for code in codes.as_primitive::<UInt32Type>() {
            match (code.map(Quality), self.text) {
                (None, _) => texts.append_null(),
                (Some(code), QualityText::Severity) => {
                    texts.append_value(code.severity().to_string());
                }
                (Some(code), QualityText::Name) => match name_of(code) {
                    Some(name) => texts.append_value(name),
                    None => texts.append_value(format!("{} {code}", code.severity())),
                },
            }
        }
        let texts: StringViewArray = texts.finish();
        Ok(ColumnarValue::Array(Arc::new(texts)))
    }
}

/// The standard name of a code, if it is listed here.
fn name_of(code: Quality) -> Option<&'static str> {
    let half = u16::try_from(code.0 >> 16).ok()?;
    let at = NAMES.binary_search_by_key(&half, |&(listed, _)| listed).ok()?;
    NAMES.get(at).map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_their_severity_and_stand_in_order() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        for &(half, name) in NAMES {
            let severity = Quality(u32::from(half) << 16).severity().to_string();
            assert!(name.starts_with(&severity), "{name} is not {severity}");
        }
        assert_eq!(name_of(Quality::BAD_NO_DATA), Some("BadNoData"));
        assert_eq!(name_of(Quality::BAD_NOT_CONNECTED), Some("BadNotConnected"));
        assert_eq!(name_of(Quality::BAD_TYPE_MISMATCH), Some("BadTypeMismatch"));
        assert_eq!(name_of(Quality(0x8031_0123)), Some("BadNoCommunication"));
        assert_eq!(name_of(Quality(0x8FFF_0000)), None);
    }
}
