#compdef docora-ops
# Asks as fish does: Typer's answer to the other shells is code, which they evaluate. Each line of
# the answer is a value, a tab and a description.
_docora_ops() {
    local line value help
    local -a values shown
    line="${(j: :)${(@qq)${(@Q)words[1,CURRENT-1]}}} ${(qq)${(Q)PREFIX}}"
    while IFS=$'\t' read -r value help; do
        [[ -n $value ]] || continue
        values+=("$value") shown+=("${(V)value}${help:+  -- ${(V)help}}")
    done < <(_TYPER_COMPLETE_ARGS="$line" _TYPER_COMPLETE_FISH_ACTION=get-args \
        _DOCORA_OPS_COMPLETE=complete_fish "${(Q)words[1]}" 2>/dev/null)
    compset -P '--*='
    compadd -l -V values -d shown -a values
    [[ $words[CURRENT-1] == --env-file && $PREFIX != *[\$\`]* ]] && _files
}
[[ $funcstack[1] == _docora-ops ]] && _docora_ops "$@" || compdef _docora_ops docora-ops
