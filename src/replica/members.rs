//! Changes of the members, as a user asks a replica for them.
//!
//! Pure: a request to the leader, and its answer.

use std::time::Duration;

use bytes::Bytes;

use super::core::Applied;
use super::error::{ClientError, ReplicaError};
use super::handle::Replica;
use super::service::{self, Operation, Verb};
use crate::id::NodeId;

impl Replica {
    /// Makes a member of a node that runs a [joining](super::ReplicaSettings::joining) replica and
    /// is linked to the leader. It receives everything and decides nothing until it is
    /// [promoted](Self::promote); [`Status::followers`](super::Status::followers) of the leader
    /// shows how far it is.
    ///
    /// Works on any replica of the cluster, as do the other changes of the members: it passes them
    /// on to the leader. Each returns when the change has been applied there; one at a time is under
    /// way. What is so already counts as done.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; its [effect](ClientError::effect) tells whether it may have been done. The
    /// code is `MEMBER_UNKNOWN` if no linked node of this name waits to be added, `MEMBER_EXISTS` if
    /// a member of this name has another directory: then that one has to be removed first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall the change.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(replica: zmesh::replica::Replica) -> Result<(), Box<dyn std::error::Error>> {
    /// let (new, old) = ("n4".parse()?, "n1".parse()?);
    /// let timeout = std::time::Duration::from_secs(10);
    /// replica.add_learner(&new, timeout).await?;
    /// // Refused with MEMBER_LAGS until it has caught up.
    /// while let Err(error) = replica.promote(&new, timeout).await {
    ///     assert!(error.is_retryable(), "{error}");
    ///     tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    /// }
    /// replica.remove(&old, timeout).await?;
    /// # Ok(()) }
    /// ```
    pub async fn add_learner(
        &self,
        node: &NodeId,
        timeout: Duration,
    ) -> Result<Applied, ClientError> {
        self.change_member(Verb::Add, node, timeout).await
    }

    /// Makes a voter of a learner.
    ///
    /// # Errors
    ///
    /// [`ClientError`]: `MEMBER_LAGS` if it lacks more than
    /// [`Options::promote_lag_max`](super::Options::promote_lag_max) entries or does not answer, so
    /// that the quorum would have to wait for it.
    ///
    /// # Cancel safety
    ///
    /// As [`add_learner`](Self::add_learner).
    pub async fn promote(&self, node: &NodeId, timeout: Duration) -> Result<Applied, ClientError> {
        self.change_member(Verb::Promote, node, timeout).await
    }

    /// Removes a member for good; its directory can never come back. A leader hands the leadership
    /// over first.
    ///
    /// # Errors
    ///
    /// [`ClientError`]: `QUORUM_AT_RISK` if too few of the other voters answer.
    ///
    /// # Cancel safety
    ///
    /// As [`add_learner`](Self::add_learner).
    pub async fn remove(&self, node: &NodeId, timeout: Duration) -> Result<Applied, ClientError> {
        self.change_member(Verb::Remove, node, timeout).await
    }

    /// Hands the leadership to a voter, which gets everything first; commands wait meanwhile.
    ///
    /// # Errors
    ///
    /// [`ClientError`]: `NOT_VOTER` for a learner, `NO_QUORUM` if it did not come about in time.
    ///
    /// # Cancel safety
    ///
    /// As [`add_learner`](Self::add_learner).
    pub async fn transfer(&self, node: &NodeId, timeout: Duration) -> Result<Applied, ClientError> {
        self.change_member(Verb::Transfer, node, timeout).await
    }

    async fn change_member(
        &self,
        verb: Verb,
        member: &NodeId,
        timeout: Duration,
    ) -> Result<Applied, ClientError> {
        let node = self.handle.node.upgrade();
        let node = node.ok_or(ReplicaError::Stopped)?;
        let name = Bytes::copy_from_slice(member.as_str().as_bytes());
        let operation = Operation::Member(verb);
        let answer = self.operate(&node, self.handle.name, operation, name, timeout).await;
        let bytes = answer.map_err(|error| ClientError::answered(error.code, error.message))?;
        service::decode(bytes).ok_or_else(|| ClientError::InvalidAnswer { node: node.id().clone() })
    }
}
