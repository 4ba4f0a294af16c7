//! The nodes that control can ask: this one, until there are more.

use std::sync::Arc;

use minato_model::{
    ids::NodeName,
    node::{NodeView, Nodes},
};

/// This node alone.
pub(super) struct ThisNode {
    name: NodeName,
    view: Arc<dyn NodeView>,
}

impl ThisNode {
    pub(super) fn new(name: NodeName, view: Arc<dyn NodeView>) -> Self {
        Self { name, view }
    }
}

impl Nodes for ThisNode {
    fn all(&self) -> Vec<(NodeName, Arc<dyn NodeView>)> {
        vec![(self.name.clone(), self.view.clone())]
    }
}
