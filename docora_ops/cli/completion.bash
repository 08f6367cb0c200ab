# Asks as fish does: Typer's answer to the other shells is code, which they evaluate. Each line of
# the answer is a value, a tab and a description. The line that is asked about ends with an empty
# word in quotes, so that a blank within quotes does not end the last word.
_docora_ops() {
    local line=${COMP_LINE:0:COMP_POINT} quote=${COMP_WORDS[COMP_CWORD]:0:1} typed value
    [[ $quote == [\'\"] ]] || quote=
    # What readline keeps of the word: it replaces only what follows a colon or another break.
    typed=${line##*[[:space:]]} typed=${typed#--*=} typed=${typed%"$2"}
    [[ $quote || $2 == *[[:space:]]* ]] && typed=
    COMPREPLY=()
    while IFS=$'\t' read -r value _; do
        [[ $value && $value == "$typed"* ]] || continue
        value=${value#"$typed"}
        case $quote in
            '') COMPREPLY+=("$(printf %q "$value")") ;;
            \') [[ $value == *\'* ]] || COMPREPLY+=("$value") ;;
            *) [[ $value == *[\"\$\`\\!]* ]] || COMPREPLY+=("$value") ;;
        esac
    done < <(_TYPER_COMPLETE_ARGS="$line$quote''" _TYPER_COMPLETE_FISH_ACTION=get-args \
        _DOCORA_OPS_COMPLETE=complete_fish "$1" 2>/dev/null)
    [[ $3 == --env-file ]] && compopt -o default
}
complete -o nosort -F _docora_ops docora-ops
