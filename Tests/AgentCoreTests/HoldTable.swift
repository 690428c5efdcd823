/// What every pair of state and event does; a pair that is not here does nothing.
let holdTable = """
    preparing guardFailed -> done(failed) | discard:new finish:failed
    preparing prepareTimer -> done(failed) | discard:new finish:failed
    preparing prepared -> prepared | arm
    preparing prepareFailed -> done(failed) | discard:new finish:failed
    preparing exitedOld -> done(lost) | discard:new discard:old guard:released finish:lost
    preparing exitedNew -> done(failed) | discard:new finish:failed
    prepared armed -> switching | guard:holding timer:abort queues:new
    prepared guardFailed -> done(failed) | discard:new finish:failed
    prepared prepareTimer -> done(failed) | discard:new finish:failed
    prepared exitedOld -> done(lost) | discard:new discard:old guard:released finish:lost
    prepared exitedNew -> done(failed) | discard:new finish:failed
    switching abortTimer -> done(failed) | queues:old discard:new guard:released guard:disarm finish:failed
    switching switched -> stopping | move
    switching queuesFailed -> done(failed) | queues:old discard:new guard:released guard:disarm finish:failed
    switching exitedOld -> done(lost) | discard:new discard:old guard:released guard:disarm finish:lost
    switching exitedNew -> done(failed) | queues:old discard:new guard:released guard:disarm finish:failed
    stopping abortTimer -> undoing | kill:new queues:old
    stopping stopped -> moving |
    stopping moved -> committing | guard:committing kill:old
    stopping moveFailed -> undoing | kill:new queues:old
    stopping exitedOld -> orphaned |
    stopping exitedNew -> undoing | kill:new queues:old
    moving abortTimer -> undoing | kill:new queues:old
    moving moved -> committing | guard:committing kill:old
    moving moveFailed -> undoing | kill:new queues:old
    moving exitedOld -> orphaned |
    moving exitedNew -> undoing | kill:new queues:old
    orphaned abortTimer -> done(lost) | discard:new discard:old guard:released guard:disarm finish:lost
    orphaned moved -> committing | guard:committing kill:old
    orphaned moveFailed -> done(lost) | discard:new discard:old guard:released guard:disarm finish:lost
    orphaned exitedNew -> done(lost) | discard:new discard:old guard:released guard:disarm finish:lost
    committing killedOld -> continuing | cont:new
    committing killOldFailed -> undoing | guard:undoing kill:new queues:old
    committing exitedNew -> undoing | guard:undoing kill:new queues:old
    continuing retryTimer -> continuing | cont:new
    continuing contNew -> confirming(new) | guard:released adopt discard:old timer:confirm confirm:new
    continuing contNewFailed -> continuing | timer:retry
    continuing exitedNew -> done(lost) | discard:new discard:old guard:released guard:disarm finish:lost
    undoing retryTimer -> undoing | kill:new
    undoing killedNew -> undoing | timer:retry
    undoing killNewFailed -> undoing | timer:retry
    undoing exitedOld -> done(lost) | discard:new discard:old guard:released guard:disarm finish:lost
    killed retryTimer -> returning | cont:old
    killed killedNew -> undoing | timer:retry
    killed killNewFailed -> undoing | timer:retry
    killed exitedOld -> done(lost) | discard:new discard:old guard:released guard:disarm finish:lost
    killed exitedNew -> returning | cont:old
    returning retryTimer -> returning | cont:old
    returning contOld -> confirming(old) | guard:released discard:new timer:confirm confirm:old
    returning contOldFailed -> returning | timer:retry
    returning exitedOld -> done(lost) | discard:new discard:old guard:released guard:disarm finish:lost
    confirmNew confirmTimer -> done(unhealthy) | guard:disarm finish:unhealthy
    confirmNew exitedNew -> done(lost) | guard:disarm finish:lost
    confirmNew healthy -> done(succeeded) | guard:disarm finish:succeeded
    confirmNew sick -> done(unhealthy) | guard:disarm finish:unhealthy
    confirmOld confirmTimer -> done(unhealthy) | guard:disarm finish:unhealthy
    confirmOld exitedOld -> done(lost) | guard:disarm finish:lost
    confirmOld healthy -> done(failed) | guard:disarm finish:failed
    confirmOld sick -> done(unhealthy) | guard:disarm finish:unhealthy
    """
