//! Plans the nodes that are ours, and leaves all others to DataFusion.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use crate::table_functions::planner::NodePlanner;
use crate::windowed::plan::WindowedPlanner;

/// See the module.
#[derive(Debug)]
pub(crate) struct Planner;

#[async_trait]
impl QueryPlanner for Planner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let nodes: Vec<Arc<dyn ExtensionPlanner + Send + Sync>> =
            vec![Arc::new(NodePlanner), Arc::new(WindowedPlanner)];
        let planner = DefaultPhysicalPlanner::with_extension_planners(nodes);
        planner.create_physical_plan(plan, session).await
    }
}
