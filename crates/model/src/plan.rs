//! A plan: what would change, each change with its reason.

use serde::{Deserialize, Serialize};

use crate::ids::AppName;

/// What applying a manifest would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Hash of the app's declared generation and the changes; running instances don't count.
    pub id: String,
    /// The app.
    pub app: AppName,
    /// In the order in which they are carried out; none: there is nothing to do.
    pub changes: Vec<Change>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is done.
    pub action: Action,
    /// To what: `app`, `app/service`, or `app/service key`.
    pub what: String,
    /// How it is now; absent where there is nothing yet.
    pub from: Option<String>,
    /// How it will be; absent where it goes.
    pub to: Option<String>,
    /// Why.
    pub reason: String,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A service that wasn't there.
    Create,
    /// A new release of a service.
    Release,
    /// Something of the service itself: nothing starts anew.
    Update,
    /// A service or an app goes.
    Delete,
}
