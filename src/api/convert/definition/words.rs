//! The enums of a definition: the API's numbers to the machine's words, and back.

use crate::{
    machine::workflow::{
        Comparison, ConditionSubject, FailurePolicy, OnInterrupt, OutputFormat, ParameterKind, Priority, TriggerRule,
    },
    proto::v1,
};

/// A word that has a number in the API.
pub(super) trait Word: Sized {
    /// The word of a number; `None` where nothing is said. `Err`: no word has that number.
    fn of_number(number: i32) -> Result<Option<Self>, i32>;

    /// Its number.
    fn number(self) -> i32;
}

macro_rules! words {
    ($($kind:ident of $proto:ident: $($word:ident = $name:ident),*;)*) => {
        $(impl Word for $kind {
            fn of_number(number: i32) -> Result<Option<Self>, i32> {
                match v1::$proto::try_from(number) {
                    Ok(v1::$proto::Unspecified) => Ok(None),
                    $(Ok(v1::$proto::$name) => Ok(Some(Self::$word)),)*
                    Err(_) => Err(number),
                }
            }

            fn number(self) -> i32 {
                let name = match self {
                    $(Self::$word => v1::$proto::$name,)*
                };
                name as i32
            }
        })*
    };
}

words! {
    Priority of TaskPriority: Low = Low, Medium = Medium, High = High, Critical = Critical;
    TriggerRule of TriggerRule: AllSucceeded = AllSucceeded, AllCompleted = AllCompleted, AllDone = AllDone,
        OneSucceeded = OneSucceeded, OneFailed = OneFailed, AllFailed = AllFailed;
    FailurePolicy of FailurePolicy: Continue = Continue, FailFast = FailFast;
    OnInterrupt of OnInterrupt: Retry = Retry, Fail = Fail;
    OutputFormat of OutputFormat: Text = Text, Json = Json;
    ParameterKind of ParameterType: String = String, Integer = Integer, Boolean = Boolean, AgentId = AgentId,
        TaskId = TaskId;
    ConditionSubject of ConditionType: Status = TaskStatus, Output = TaskOutput, Metadata = TaskMetadata;
    Comparison of ComparisonOperator: Equals = Equals, NotEquals = NotEquals, Contains = Contains,
        GreaterThan = GreaterThan, LessThan = LessThan;
}
