"""A scripted language model for tests against a real OpenCode server.

OpenCode can use any OpenAI-compatible chat endpoint as a model provider. This is such an endpoint
with no intelligence in it: what it answers is decided only by the conversation OpenCode sends, so
a test sees the same turn every time, offline and for free.

The last ``user`` message that contains ``SCRIPT:<name>`` selects the script. Whatever follows the
name, up to the end of the line, is its argument: nothing, a number, JSON, or free text::

    SCRIPT:text
    SCRIPT:text Any sentence to be streamed back
    SCRIPT:long 20000
    SCRIPT:bash {"command": "echo hi"}

A script is a list of steps. The number of ``tool`` messages after that user message says which
step comes next, so "call a tool, then comment on the result" needs no state on this side. A user
message with no script is echoed. OpenCode's own requests for a session title or a summary
(compaction) get a fixed short answer.

===============================  ==================================================================
text [T]                         streams T (or a fixed sentence), a word per delta
nul                              text with U+0000 and a lone surrogate in it, three deltas
reasoning [T]                    three reasoning deltas, then text
slow {n,delay}                   n deltas (20), ``delay`` seconds apart (0.25)
long N                           N deltas ("w000001 "), as fast as they are read;
                                 JSON form {"n":N,"delay":s,"size":characters per delta}
hang [T]                         one delta, then silence until the client goes away
write {path,content}             the write tool, then text
read {path}                      the read tool, then text
edit {path,old,new}              read, then the edit tool, then text
apply_patch {patch}              the apply_patch tool (only offered by OpenCode to models whose id
                                 contains "gpt-"), then text
bash {command}                   the bash tool, then text
todo                             todowrite twice, then text
question {n,multiple}            the question tool, then text
task {prompt,agent,background}   the task (subagent) tool, then text; the prompt of the child
                                 session may be a script
webfetch {url}                   the webfetch tool, then text
multi [{name,args},...]          tool calls all in one step (two of write), then text
tools [{name,args},...]          any tool calls, one step each, then text
badargs                          a tool call whose arguments are not valid JSON
unknowntool                      a call to a tool that does not exist
loop N                           N bash steps (5), then text
structured {json}                calls the StructuredOutput tool with that value
length | contentfilter           text that ends with that finish reason
empty                            a finished answer with no content
error<status>                    that HTTP status, as in error401, error429, error500;
      {times,after,message}      ``after`` is a Retry-After header (s)
overflow {times}                 HTTP 400 "maximum context length", once by default, then text
                                 (OpenCode compacts the session between)
streamerror {times}              an error object in the stream after some deltas
cut {times}                      some deltas, then the connection is closed
===============================  ==================================================================

With ``times`` a script fails only for the first so many requests of this user text in a session;
then it is text.

``python -m opencode_async.testing.scripted_model`` runs it by itself.
"""

from opencode_async.testing.scripted_model.server import Asked, ScriptedModel

__all__ = ["Asked", "ScriptedModel"]
