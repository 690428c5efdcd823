/* Fermata's lock-and-hold protocol, for spin: grant, hold, deadline, take-over, late report.
 *
 *   server 0 ─┐ append: epoch, next                       ┌─ host 0: agent, guard, guest   UD 0
 *             ├──────────────▶ log ◀── operator's release │
 *   server 1 ─┘        directive, report ─ one session ───┼─ host 1: agent, guard, guest   UD 0
 *                                                         └─ host 2: agent, guard, guest   UD 1
 *
 * README.md beside this file says what is modelled, what is left out, and what came of it. Each
 * process has one loop whose branches are atomic, so a branch is what one program does in one turn.
 * All that can go wrong takes from one budget, `faults`; every other branch brings something
 * forward, so no run is endless, and in the last state of every run all work must have ended.
 *
 * Macros: STEPS (3, 4), FAULTS, DEADLINE, GUARD_AT, PROGRESS (adds the LTL formulas), and one for
 * each mutant in README.md.
 */

#ifndef STEPS
#define STEPS 3
#endif
#ifndef FAULTS
#define FAULTS 2
#endif
/* Of a hold, in ticks of the host's own hold clock; ticks of two hosts are never compared. */
#ifndef DEADLINE
#define DEADLINE 3
#endif
/* When the guard acts: it needs two reactions, each within a tick: kill the agent, continue. */
#ifndef GUARD_AT
#define GUARD_AT (DEADLINE - 2)
#endif

/* For mutants that break several promises: what follows for the update domains. */
#ifndef ONLY_EXCLUSION
#define ONLY_EXCLUSION 0
#endif

#define SERVERS 2
#define HOSTS 3
/* One set. Step 3, if there is one, is the second of host 0. */
#define HOST(st) ((st) == 3 -> 0 : (st))
#define UD(st) ((st) == 2)
#define UD_OF_HOST(h) ((h) == 2)

/* Of a step, in a state: Coordination's StepStatus. `stuck` has ended and keeps its lock. */
#define waiting 0
#define granted 1
#define finished 2
#define stuck 3
#define LOCKS(status) ((status) == granted || (status) == stuck)
/* Facts: Coordination/Facts.swift, those that move locks. */
#define termStarted 1
#define stepGranted 2
#define stepFinished 3
#define stepStuck 4
#define lockReleased 5

typedef Known {
    byte status[STEPS];
    byte token[STEPS];
    byte nextToken;
    /* How many facts are folded into it. */
    byte index;
}

typedef Append {
    byte fact;
    byte step;
    byte epoch;
    byte index;
}

byte faults = FAULTS;

/* ---- The log: what is durable. Its records are kept folded; `index` counts them. ---- */
/* Of each server, as it knows it; the last is the log's. */
Known memory[SERVERS + 1];
#define LOG SERVERS
#define logged memory[LOG]
byte newestEpoch;

/* ---- Servers ---- */
#define down 0
#define standby 1
#define loading 2
#define starting 3
#define leader 4
byte mode[SERVERS];
byte epoch[SERVERS];
/* At most one append of each is in flight (Committer); fact 0: none. The last is one that was sent by
 * a writer that has given up or died, and may still be carried out. */
Append sent[SERVERS + 1];
#define LATE SERVERS
#define noAnswer 0
#define isDone 1
#define isFenced 2
byte answer[SERVERS];

/* ---- Sessions: of each host with at most one server, and all that is on its way in it ---- */
/* 0 none, else the server's number plus 1. */
byte session[HOSTS];
/* Its host report is committed: only then directives are sent, and the host counts as connected. */
bit ready[HOSTS];
/* Of each step: the token in the directive that the network may deliver, again and again. */
byte directive[STEPS];
bit isTold[STEPS];
/* Token of a refusal on its way to the server. */
byte refusal[STEPS];

/* ---- Hosts ---- */
bit alive[HOSTS];
/* The whole host is lost, with its guest. */
bit gone[HOSTS];
#define idle 0
#define preparing 1
#define held 2
#define confirming 3
byte phase[HOSTS];
byte ticks[HOSTS];
/* The guard has seen to it that the agent does not act any more. */
bit isActing[HOSTS];
/* It has moved in this tick. */
bit hasReacted[HOSTS];
/* Durable: TokenGate. A step is kept as its number plus 1. */
byte accepted[HOSTS];
byte inFlight[HOSTS];
byte inFlightToken[HOSTS];
byte reported[STEPS];
bit isLost[STEPS];

/* ---- What must hold ---- */

/* A host's guest is taken out of its set: held, being worked on, or not yet confirmed. */
#define AT_WORK(h) (phase[h] != idle)

/* Invariant 1: what is locked, held or not yet confirmed belongs to one update domain. */
inline checkExclusion() {
    isOut[0] = 0;
    isOut[1] = 0;
    for (x : 0 .. STEPS - 1) {
        if
        :: LOCKS(logged.status[x]) -> isOut[UD(x)] = 1
        :: else
        fi
    }
    for (x : 0 .. HOSTS - 1) {
        if
        :: AT_WORK(x) -> isOut[UD_OF_HOST(x)] = 1
        :: else
        fi
    }
    assert(!(isOut[0] && isOut[1]));  /* one update domain at a time */
    isOut[0] = 0;
    isOut[1] = 0;
    x = 0
}

/* Scratch of atomic branches; 0 between them. */
hidden byte x;
hidden byte y;
hidden byte isOut[2];

/* ---- Folding and the log ---- */

/* Coordinator.apply. */
inline fold(dst, what, which) {
    if
    :: what == stepGranted ->
        memory[dst].status[which] = granted;
        memory[dst].token[which] = memory[dst].nextToken;
        memory[dst].nextToken++
    :: what == stepFinished -> memory[dst].status[which] = finished
    :: what == stepStuck -> memory[dst].status[which] = stuck
    :: what == lockReleased ->
        for (y : 0 .. STEPS - 1) {
            if
            :: LOCKS(memory[dst].status[y]) -> memory[dst].status[y] = finished
            :: else
            fi
        }
        y = 0
    :: else
    fi;
    memory[dst].index++
}

inline copy(dst, src) {
    for (y : 0 .. STEPS - 1) {
        memory[dst].status[y] = memory[src].status[y];
        memory[dst].token[y] = memory[src].token[y]
    }
    memory[dst].nextToken = memory[src].nextToken;
    memory[dst].index = memory[src].index;
    y = 0
}

inline forget(who) {
    for (y : 0 .. STEPS - 1) {
        memory[who].status[y] = 0;
        memory[who].token[y] = 0
    }
    memory[who].nextToken = 0;
    memory[who].index = 0;
    y = 0
}

inline clear(a) {
    sent[a].fact = 0;
    sent[a].step = 0;
    sent[a].epoch = 0;
    sent[a].index = 0
}

/* The transaction of EtcdLogStore.append. An earlier try of its own that came through is known by
 * the next index and, in the code, by the batch's bytes. */
#ifdef NO_FENCE
#define NO_CONFIRM
#define NO_EPOCH
#define NO_NEXT
#endif
#ifdef NO_EPOCH
#define EPOCH_FITS(e) true
#else
#define EPOCH_FITS(e) ((e) == newestEpoch)
#endif
#ifdef NO_NEXT
#define NEXT_FITS(i) true
#else
#define NEXT_FITS(i) ((i) == logged.index)
#endif

inline carryOut(a, result) {
    if
    :: EPOCH_FITS(sent[a].epoch) && NEXT_FITS(sent[a].index) ->
        fold(LOG, sent[a].fact, sent[a].step);
        result = isDone;
        checkExclusion()
    :: else ->
        if
        :: sent[a].epoch == newestEpoch && sent[a].index + 1 == logged.index -> result = isDone
        :: else -> result = isFenced
        fi
    fi
}

/* Committer: proposed and applied at once, so the memory is ahead of the log till the answer. */
inline submit(who, what, which) {
    sent[who].fact = what;
    sent[who].step = which;
    sent[who].epoch = epoch[who];
    sent[who].index = memory[who].index;
    fold(who, what, which)
}

/* ---- Sessions and leadership ---- */

inline endSession(h) {
    session[h] = 0;
    ready[h] = 0;
    for (y : 0 .. STEPS - 1) {
        if
        :: HOST(y) == h ->
#ifndef OLD_DIRECTIVES
            directive[y] = 0;
#endif
            isTold[y] = 0;
#ifdef REPORT_ONCE
            reported[y] = 0;
            isLost[y] = 0;
#endif
            refusal[y] = 0
        :: else
        fi
    }
    y = 0
}

/* Its memory may be ahead of the log, so it is dropped; what it has sent may still come through. */
inline stopLeading(who, next) {
    if
    :: sent[who].fact != 0 && answer[who] == noAnswer ->
        sent[LATE].fact = sent[who].fact;
        sent[LATE].step = sent[who].step;
        sent[LATE].epoch = sent[who].epoch;
        sent[LATE].index = sent[who].index
    :: else
    fi;
    clear(who);
    answer[who] = noAnswer;
    mode[who] = next;
    epoch[who] = 0;
    forget(who);
    for (x : 0 .. HOSTS - 1) {
        if
        :: session[x] == who + 1 -> endSession(x)
        :: else
        fi
    }
    x = 0
}

#define IS_FREE(s) (mode[s] == leader && sent[s].fact == 0)
#if STEPS > 3
#define IS_FOURTH_LOCKED(s) LOCKS(memory[s].status[3])
#else
#define IS_FOURTH_LOCKED(s) false
#endif
#define HAS_LOCK(s) (LOCKS(memory[s].status[0]) || LOCKS(memory[s].status[1]) \
    || LOCKS(memory[s].status[2]) || IS_FOURTH_LOCKED(s))
#define OTHER_LEADS(s) (mode[1 - (s)] >= loading)
#define CONNECTED(s, h) (session[h] == (s) + 1 && ready[h])
/* The linearizable read of `epoch` before anything is answered that no append has confirmed. */
#ifdef NO_CONFIRM
#define IS_CONFIRMED(s) true
#else
#define IS_CONFIRMED(s) (epoch[s] == newestEpoch)
#endif

/* GrantRound.obstacle: the host's connection, the set's lock, another step on the host. */
#define STANDS_IN_THE_WAY(s, y, st) \
    ((LOCKS(memory[s].status[y]) && UD(y) != UD(st)) \
        || (memory[s].status[y] == granted && HOST(y) == HOST(st)))
#if STEPS > 3
#define IS_FOURTH_IN_THE_WAY(s, st) STANDS_IN_THE_WAY(s, 3, st)
#else
#define IS_FOURTH_IN_THE_WAY(s, st) false
#endif
#define MAY_START(s, st) (memory[s].status[st] == waiting && CONNECTED(s, HOST(st)) \
    && !STANDS_IN_THE_WAY(s, 0, st) && !STANDS_IN_THE_WAY(s, 1, st) \
    && !STANDS_IN_THE_WAY(s, 2, st) && !IS_FOURTH_IN_THE_WAY(s, st))

#ifdef FREE_AT_TAKEOVER
inline freeLocks(who) {
    for (y : 0 .. STEPS - 1) {
        if
        :: memory[who].status[y] == granted -> memory[who].status[y] = finished
        :: else
        fi
    }
    y = 0
}
#endif

/* Any other report is of a step whose end is recorded already: proposeStepReport. */
#define IS_AWAITED(s, st) (memory[s].status[st] == granted && memory[s].token[st] == reported[st])

/* What a leader with no append in flight does for one step and its host. */
inline confirmHost(who, which) {
    if
    :: IS_CONFIRMED(who) ->
        /* Agreement: what a leader may answer from is what the log says. */
        assert(ONLY_EXCLUSION || memory[who].index == logged.index);
        ready[HOST(which)] = 1;
        /* Else `nextToken` would have to be raised, as after a restored back-up. */
        assert(ONLY_EXCLUSION || accepted[HOST(which)] < memory[who].nextToken)
    :: else -> stopLeading(who, standby)
    fi
}

inline takeRefusal(who, which) {
    if
    :: memory[who].status[which] == granted && memory[who].token[which] == refusal[which] ->
        submit(who, stepFinished, which)
    :: else
    fi;
    refusal[which] = 0
}

inline takeReport(who, which) {
    if
    :: isLost[which] -> submit(who, stepStuck, which)
    :: else -> submit(who, stepFinished, which)
    fi
}

/* StepReportCommitted: the agent may forget it. */
inline confirmReport(who, which) {
    if
    :: IS_CONFIRMED(who) ->
        reported[which] = 0;
        isLost[which] = 0
    :: else -> stopLeading(who, standby)
    fi
}

#define HAS_REPORT(s, st) (IS_FREE(s) && reported[st] != 0 && session[HOST(st)] == s + 1)

#ifdef LATE_REPORT_FREES
#define LATE_REPORT(s, st) \
    :: d_step { HAS_REPORT(s, st) && !IS_AWAITED(s, st) && HAS_LOCK(s) -> \
            submit(s, lockReleased, 0) }
#else
#define LATE_REPORT(s, st)
#endif

/* HostReport, when nothing in it has changed, is confirmed and not appended. Directives are
 * outstandingDirectives, each once in a session, sent only when the state is durable. */
#define SERVE(s, st) \
    :: d_step { IS_FREE(s) && MAY_START(s, st) -> submit(s, stepGranted, st) } \
    :: d_step { IS_FREE(s) && session[HOST(st)] == s + 1 && !ready[HOST(st)] -> \
            confirmHost(s, st) } \
    :: d_step { IS_FREE(s) && memory[s].status[st] == granted && CONNECTED(s, HOST(st)) \
            && !isTold[st] -> \
            isTold[st] = 1; \
            directive[st] = memory[s].token[st] } \
    :: d_step { IS_FREE(s) && refusal[st] != 0 && session[HOST(st)] == s + 1 -> \
            takeRefusal(s, st) } \
    :: d_step { HAS_REPORT(s, st) && IS_AWAITED(s, st) -> takeReport(s, st) } \
    :: d_step { HAS_REPORT(s, st) && !IS_AWAITED(s, st) -> confirmReport(s, st) } \
    LATE_REPORT(s, st)

proctype Server(byte me) {
end:
    do
    :: d_step { mode[me] == down -> mode[me] = standby }
    :: d_step { mode[me] != down && faults > 0 -> faults--; stopLeading(me, down) }
    /* At any moment, also while another leads: Succession says when, the fence makes it safe. */
    :: d_step {
            mode[me] == standby && (!OTHER_LEADS(me) || faults > 0) ->
            if
            :: OTHER_LEADS(me) -> faults--
            :: else
            fi;
            newestEpoch++;
            epoch[me] = newestEpoch;
            mode[me] = loading
        }
    :: d_step {
            mode[me] == loading ->
            if
            :: IS_CONFIRMED(me) ->
                copy(me, LOG);
#ifdef FREE_AT_TAKEOVER
                freeLocks(me);
#endif
                mode[me] = starting;
                submit(me, termStarted, 0)
            :: else -> stopLeading(me, standby)
            fi
        }
    :: d_step {
            sent[me].fact != 0 && answer[me] == isDone ->
            clear(me);
            answer[me] = noAnswer;
            mode[me] = leader
        }
    :: d_step { sent[me].fact != 0 && answer[me] == isFenced -> stopLeading(me, standby) }
    /* No answer for 6 s. */
    :: d_step { sent[me].fact != 0 && faults > 0 -> faults--; stopLeading(me, standby) }
    /* It hears of its successor when it shows its life, if nothing else tells it. */
    :: d_step { IS_FREE(me) && !IS_CONFIRMED(me) -> stopLeading(me, standby) }
    SERVE(me, 0)
    SERVE(me, 1)
    SERVE(me, 2)
#if STEPS > 3
    SERVE(me, 3)
#endif
    od
}

/* etcd carries out what was sent, once or more often, and may lose an answer. */
proctype Log() {
    byte result;
end:
    do
    :: d_step { sent[0].fact != 0 && answer[0] == noAnswer -> carryOut(0, answer[0]) }
    :: d_step { sent[1].fact != 0 && answer[1] == noAnswer -> carryOut(1, answer[1]) }
    /* Carried out, the answer lost: the same transaction is sent again. */
    :: d_step {
            sent[0].fact != 0 && answer[0] == noAnswer && faults > 0 ->
            faults--;
            carryOut(0, result);
            result = 0
        }
    :: d_step {
            sent[1].fact != 0 && answer[1] == noAnswer && faults > 0 ->
            faults--;
            carryOut(1, result);
            result = 0
        }
    :: d_step { sent[LATE].fact != 0 -> carryOut(LATE, result); result = 0; clear(LATE) }
    od
}

/* ---- Hosts ---- */

/* The report is on stable storage before it is sent. */
inline endStep(h, lost) {
    phase[h] = idle;
    ticks[h] = 0;
    isActing[h] = 0;
    hasReacted[h] = 0;
    if
    :: inFlight[h] != 0 ->
        reported[inFlight[h] - 1] = inFlightToken[h];
        isLost[inFlight[h] - 1] = lost
    :: else
    fi;
    inFlight[h] = 0;
    inFlightToken[h] = 0
}

inline resume(h) {
    phase[h] = confirming;
    ticks[h] = 0;
    isActing[h] = 0;
    hasReacted[h] = 0
}

#ifdef NO_TOKEN_CHECK
#define IS_STALE(h, t) false
#else
#define IS_STALE(h, t) ((t) <= accepted[h])
#endif
#define IS_KNOWN(h, st) ((inFlight[h] == (st) + 1 && inFlightToken[h] == directive[st]) \
    || reported[st] == directive[st])
/* A directive would be judged `fresh` now. */
#define IS_FRESH(h, st) (alive[h] && directive[st] != 0 && !IS_KNOWN(h, st) \
    && !IS_STALE(h, directive[st]) && inFlight[h] == 0)

/* A token as high as the accepted one would have its hold a second time. */
inline accept(h, which) {
    assert(ONLY_EXCLUSION || directive[which] > accepted[h]);  /* fencing */
    accepted[h] = directive[which];
    inFlight[h] = which + 1;
    inFlightToken[h] = directive[which];
    phase[h] = preparing;
    checkExclusion()
}

#ifdef NO_GUARD
#define GUARD_IS_DUE(h) false
#else
#define GUARD_IS_DUE(h) (phase[h] == held && (isActing[h] || !alive[h] || ticks[h] >= GUARD_AT))
#endif

proctype Host(byte me) {
end:
    do
    /* -- the agent -- */
    :: d_step { alive[me] && session[me] == 0 && mode[0] == leader -> session[me] = 1 }
    :: d_step { alive[me] && session[me] == 0 && mode[1] == leader -> session[me] = 2 }
    :: d_step { IS_FRESH(me, me) -> accept(me, me) }
    :: d_step { IS_FRESH(me, me) -> refusal[me] = directive[me]; directive[me] = 0 }
#if STEPS > 3
    :: d_step { me == 0 && IS_FRESH(me, 3) -> accept(me, 3) }
    :: d_step { me == 0 && IS_FRESH(me, 3) -> refusal[3] = directive[3]; directive[3] = 0 }
#endif
    :: d_step { alive[me] && phase[me] == preparing -> phase[me] = held }
    :: d_step { alive[me] && phase[me] == preparing -> endStep(me, 0) }
    :: d_step { alive[me] && phase[me] == held && !isActing[me] -> resume(me) }
    :: d_step { alive[me] && phase[me] == confirming -> endStep(me, 0) }
    /* Both QEMUs ended, or not healthy afterwards: the lock stays. */
    :: d_step { alive[me] && phase[me] >= held && faults > 0 -> faults--; endStep(me, 1) }
    :: d_step { alive[me] && faults > 0 -> faults--; alive[me] = 0; endSession(me) }
    /* Recovery, from the processes: what is held goes on, and no hold begins. */
    :: d_step {
            !alive[me] && !gone[me] ->
            alive[me] = 1;
            if
            :: phase[me] == held -> resume(me)
            :: phase[me] == preparing -> endStep(me, 0)
            :: else
            fi
        }
    /* -- the guard, and the hold clock, which does not pass what the guard has to do in a tick -- */
    :: d_step { phase[me] == held && (!GUARD_IS_DUE(me) || hasReacted[me]) ->
            ticks[me]++;
            hasReacted[me] = 0;
            assert(ticks[me] < DEADLINE)  /* the deadline: the guest has gone on before this tick */
        }
    :: d_step {
            GUARD_IS_DUE(me) && !hasReacted[me] && !isActing[me] ->
            isActing[me] = 1;
            hasReacted[me] = 1;
            alive[me] = 0;
            endSession(me)
        }
    :: d_step { GUARD_IS_DUE(me) && !hasReacted[me] && isActing[me] -> resume(me) }
    /* -- the host, and the network -- */
    :: d_step {
            !gone[me] && faults > 0 ->
            faults--;
            gone[me] = 1;
            alive[me] = 0;
            phase[me] = idle;
            ticks[me] = 0;
            isActing[me] = 0;
            hasReacted[me] = 0;
            endSession(me)
        }
    /* endAfterReboot. */
    :: d_step {
            gone[me] ->
            gone[me] = 0;
            alive[me] = 1;
            endStep(me, 0)
        }
    :: d_step { session[me] != 0 && faults > 0 -> faults--; endSession(me) }
    od
}

/* ---- The operator, who opens a set by hand ---- */

/* Leadership.refusalWhileAtWork: not while one of its steps is at work on a connected host. The
 * operator has more to go by: the host is lost. */
#ifdef HASTY_OPERATOR
#define IS_GIVEN_UP(s, h) (!CONNECTED(s, h))
#else
#define IS_GIVEN_UP(s, h) (!CONNECTED(s, h) && gone[h])
#endif

#define IS_AT_WORK(s, st) (memory[s].status[st] == granted && !IS_GIVEN_UP(s, HOST(st)))
#if STEPS > 3
#define IS_FOURTH_AT_WORK(s) IS_AT_WORK(s, 3)
#else
#define IS_FOURTH_AT_WORK(s) false
#endif
#define MAY_RELEASE(s) (IS_FREE(s) && HAS_LOCK(s) && !IS_AT_WORK(s, 0) && !IS_AT_WORK(s, 1) \
    && !IS_AT_WORK(s, 2) && !IS_FOURTH_AT_WORK(s))

proctype Operator() {
end:
    do
    :: d_step { MAY_RELEASE(0) -> submit(0, lockReleased, 0) }
    :: d_step { MAY_RELEASE(1) -> submit(1, lockReleased, 0) }
    od
}

/* ---- Progress ---- */

#if STEPS > 3
#define ALL_FINISHED(x) (x.status[0] == finished && x.status[1] == finished \
    && x.status[2] == finished && x.status[3] == finished)
#else
#define ALL_FINISHED(x) (x.status[0] == finished && x.status[1] == finished \
    && x.status[2] == finished)
#endif

#if !ONLY_EXCLUSION
/* When nothing can happen any more: every step has ended, every guest runs, every report is kept. */
proctype Last() {
    byte i;
end:
    timeout -> atomic {
        assert(ALL_FINISHED(logged));
        for (i : 0 .. HOSTS - 1) {
            assert(phase[i] == idle && inFlight[i] == 0 && alive[i])
        }
        for (i : 0 .. STEPS - 1) {
            assert(reported[i] == 0)
        }
    }
}
#endif

#ifdef PROGRESS
ltl ends { [] (logged.status[0] == granted -> <> (logged.status[0] != granted)) }
ltl granted_in_the_end { <> (logged.status[2] != waiting) }
ltl all_finished { <> [] ALL_FINISHED(logged) }
#endif

init {
    atomic {
        logged.nextToken = 1;
        mode[0] = standby;
        mode[1] = standby;
        alive[0] = 1;
        alive[1] = 1;
        alive[2] = 1;
#ifndef NO_OPERATOR
        run Operator();
#endif
#if !ONLY_EXCLUSION
        run Last();
#endif
        run Log();
        run Server(0);
        run Server(1);
        run Host(0);
        run Host(1);
        run Host(2)
    }
}
